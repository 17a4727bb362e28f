"""From a search to scikit-learn.

One factory builds the model, which is compiled in two ways. Cross-validation of a pipeline gives the objective. The
best configuration becomes the estimator of a pipeline.

search run spaces/sklearn_estimator.py        the search
python spaces/sklearn_estimator.py            the search, then a classifier and a regressor with what it found
"""

import keras
import keras_tuner
from keras import layers
from keras.wrappers import SKLearnClassifier, SKLearnRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import search


def mlp(hp, features=30, outputs=2, activation="softmax"):
    inputs = keras.Input((features,))
    x = inputs
    for i in range(hp.Int("layers", 1, 2)):
        x = layers.Dense(hp.Int(f"units_{i}", 8, 64, sampling="log"), activation="relu")(x)
        x = layers.Dropout(hp.Float("dropout", 0.0, 0.5))(x)
    return keras.Model(inputs, layers.Dense(outputs, activation=activation)(x))


def adam(hp):
    return keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log"))


# Both take the arguments of `mlp`: `regressor(hp, features=10, outputs=1, activation=None)`.
build_model = classifier = search.compiled(mlp, optimizer=adam, loss="categorical_crossentropy", metrics=["accuracy"])
regressor = search.compiled(mlp, optimizer=adam, loss="mse")


def pipeline(hp, regression=False):
    """Return an estimator for scikit-learn. Keras's wrapper calls `build` with the data, which give the shapes."""

    def build(X, y):
        if regression:
            return regressor(hp, features=X.shape[1], outputs=1, activation=None)
        return classifier(hp, features=X.shape[1], outputs=y.shape[1])

    estimator = SKLearnRegressor(build) if regression else SKLearnClassifier(build)
    return make_pipeline(StandardScaler(), estimator)


def fit_arguments(estimator, **arguments):
    """Return arguments of `model.fit` with the names that a pipeline needs.

    (The wrapper also has `fit_kwargs`, but loses them when it is cloned.)
    """
    return {f"{estimator.steps[-1][0]}__{name}": value for name, value in arguments.items()}


def split(x, y, classes=True):
    """Return x, held-out x, y and held-out y: the same parts each time."""
    return train_test_split(x, y, test_size=0.25, random_state=0, stratify=y if classes else None)


def load_data():
    x, x_held, y, y_held = split(*load_breast_cancer(return_X_y=True))
    scaler = StandardScaler().fit(x)
    # One column for each class: SKLearnClassifier encodes labels in the same way.
    y, y_held = keras.utils.to_categorical(y), keras.utils.to_categorical(y_held)
    return (scaler.transform(x), y), (scaler.transform(x_held), y_held)


def fit(hp, model, train, validation, *, epochs, **kwargs):
    # Cross-validation sees the training part only. Its pipeline scales anew, by the samples that each fold trains on.
    x, y = train
    estimator = pipeline(hp)
    arguments = fit_arguments(estimator, epochs=epochs, verbose=0)
    scores = cross_val_score(estimator, x, y.argmax(axis=1), cv=3, params=arguments)
    # The model itself is trained like any other, so that the search keeps its weights.
    model.fit(x, y, validation_data=validation, epochs=epochs, **kwargs)
    # The objective is recorded for the last epoch that was trained.
    return {"cv_accuracy": scores.mean(), "cv_std": scores.std()}


search_options = {"objective": "cv_accuracy", "direction": "max", "max_epochs": 9, "max_trials": 6}


if __name__ == "__main__":
    study = search.run(__file__, resume=True)
    best = study.best_trials(1)[0]
    hp = keras_tuner.HyperParameters()
    hp.values = dict(best.params)
    for regression, load, epochs in ((False, load_breast_cancer, best.best_epoch), (True, load_diabetes, 50)):
        # The held-out part chose nothing: the objective is that of the cross-validation.
        x, x_test, y, y_test = split(*load(return_X_y=True), classes=not regression)
        estimator = pipeline(hp, regression)
        estimator.fit(x, y, **fit_arguments(estimator, epochs=epochs, verbose=0))
        print("R²" if regression else "accuracy", round(estimator.score(x_test, y_test), 3))
