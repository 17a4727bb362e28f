"""Ratings of films by users, from embeddings of both."""

import keras
import numpy as np
import pandas as pd
from keras import layers, ops

EXPECTED = {
    "exports": "weights",
    "reason": "the model has no get_config",
    "special": "a subclassed model, without get_config, that splits one integer array into user and film; "
    "regularizers; y float64 of shape (n,) for outputs (n, 1); x int64; data are module globals",
}

rng = np.random.default_rng(0)
df = pd.DataFrame({"userId": rng.integers(100, 140, 800) * 7, "movieId": rng.integers(500, 550, 800) * 3})
df["rating"] = ((df.userId % 5 + df.movieId % 4) / 2 + 0.5).astype("float32")

user_ids = df["userId"].unique().tolist()
movie_ids = df["movieId"].unique().tolist()
df["user"] = df["userId"].map({x: i for i, x in enumerate(user_ids)})
df["movie"] = df["movieId"].map({x: i for i, x in enumerate(movie_ids)})
num_users, num_movies = len(user_ids), len(movie_ids)
min_rating, max_rating = min(df["rating"]), max(df["rating"])

df = df.sample(frac=1, random_state=42)
x = df[["user", "movie"]].values
y = df["rating"].apply(lambda x: (x - min_rating) / (max_rating - min_rating)).values
train_indices = int(0.9 * df.shape[0])
x_train, x_val, y_train, y_val = x[:train_indices], x[train_indices:], y[:train_indices], y[train_indices:]


def load_data():
    return (x_train, y_train), (x_val, y_val)


class RecommenderNet(keras.Model):
    def __init__(self, num_users, num_movies, embedding_size, **kwargs):
        super().__init__(**kwargs)
        self.num_users = num_users
        self.num_movies = num_movies
        self.embedding_size = embedding_size
        options = {"embeddings_initializer": "he_normal", "embeddings_regularizer": keras.regularizers.l2(1e-6)}
        self.user_embedding = layers.Embedding(num_users, embedding_size, **options)
        self.user_bias = layers.Embedding(num_users, 1)
        self.movie_embedding = layers.Embedding(num_movies, embedding_size, **options)
        self.movie_bias = layers.Embedding(num_movies, 1)

    def call(self, inputs):
        user_vector = self.user_embedding(inputs[:, 0])
        user_bias = self.user_bias(inputs[:, 0])
        movie_vector = self.movie_embedding(inputs[:, 1])
        movie_bias = self.movie_bias(inputs[:, 1])
        # As the example has it: one number for the whole batch, added to each row.
        dot_user_movie = ops.tensordot(user_vector, movie_vector, 2)
        return ops.sigmoid(dot_user_movie + user_bias + movie_bias)


def build_model(hp):
    model = RecommenderNet(num_users, num_movies, hp.Choice("embedding_size", [4, 16]))
    model.compile(
        loss=keras.losses.BinaryCrossentropy(),
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")),
    )
    return model


def fit_options(hp):
    return {"batch_size": hp.Choice("batch_size", [32, 64])}
