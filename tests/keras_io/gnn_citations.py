"""Papers that cite each other: the graph belongs to the model, and a batch is a list of nodes."""

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers

EXPECTED = {
    "exports": "weights",
    "reason": "the model has no get_config",
    "special": "a subclassed model that holds the graph as tensors and arrays, outside its weights; x are node indices "
    "(n,), int64; TensorFlow's own operations; EarlyStopping on val_acc; y is a pandas series",
}

CLASSES, NODES = 3, 120

rng = np.random.default_rng(0)
papers = pd.DataFrame({"paper_id": np.arange(NODES), "subject": rng.integers(CLASSES, size=NODES)})
source = rng.integers(NODES, size=500)
# Four of five citations are of papers of the same subject.
same = rng.random(500) < 0.8
target = np.array(
    [
        rng.choice(np.flatnonzero(papers.subject == papers.subject[s])) if own else rng.integers(NODES)
        for s, own in zip(source, same, strict=True)
    ]
)
words = rng.random((NODES, 16)) < 0.1 + 0.3 * (np.arange(16) % CLASSES == papers.subject.to_numpy()[:, None])

edges = np.stack([source, target])
edge_weights = tf.ones(shape=edges.shape[1])
node_features = tf.cast(words, dtype=tf.dtypes.float32)
graph_info = (node_features, edges, edge_weights)

train_data = papers.sample(frac=0.6, random_state=0)
test_data = papers.drop(train_data.index)


def load_data():
    train = train_data.paper_id.to_numpy(), train_data["subject"]
    return train, (test_data.paper_id.to_numpy(), test_data["subject"])


def create_ffn(hidden_units, dropout_rate, name=None):
    fnn_layers = []
    for units in hidden_units:
        fnn_layers.append(layers.BatchNormalization())
        fnn_layers.append(layers.Dropout(dropout_rate))
        fnn_layers.append(layers.Dense(units, activation=tf.nn.gelu))
    return keras.Sequential(fnn_layers, name=name)


class GraphConvLayer(layers.Layer):
    def __init__(self, hidden_units, dropout_rate=0.2, aggregation_type="mean", normalize=False, **kwargs):
        super().__init__(**kwargs)
        self.aggregation_type = aggregation_type
        self.normalize = normalize
        self.ffn_prepare = create_ffn(hidden_units, dropout_rate)
        self.update_fn = create_ffn(hidden_units, dropout_rate)

    def aggregate(self, node_indices, neighbour_messages, num_nodes):
        reduce = {"sum": tf.math.unsorted_segment_sum, "mean": tf.math.unsorted_segment_mean}[self.aggregation_type]
        return reduce(neighbour_messages, node_indices, num_segments=num_nodes)

    def call(self, inputs):
        node_repesentations, edges, edge_weights = inputs
        node_indices, neighbour_indices = edges[0], edges[1]
        neighbours = tf.gather(node_repesentations, neighbour_indices)
        messages = self.ffn_prepare(neighbours) * tf.expand_dims(edge_weights, -1)
        aggregated = self.aggregate(node_indices, messages, node_repesentations.shape[0])
        embeddings = self.update_fn(tf.concat([node_repesentations, aggregated], axis=1))
        return tf.nn.l2_normalize(embeddings, axis=-1) if self.normalize else embeddings


class GNNNodeClassifier(keras.Model):
    def __init__(self, graph_info, num_classes, hidden_units, aggregation_type="sum", dropout_rate=0.2, **kwargs):
        super().__init__(**kwargs)
        node_features, edges, edge_weights = graph_info
        self.node_features = node_features
        self.edges = edges
        self.edge_weights = edge_weights / tf.math.reduce_sum(edge_weights)
        self.preprocess = create_ffn(hidden_units, dropout_rate, name="preprocess")
        self.conv1 = GraphConvLayer(hidden_units, dropout_rate, aggregation_type, True, name="graph_conv1")
        self.conv2 = GraphConvLayer(hidden_units, dropout_rate, aggregation_type, True, name="graph_conv2")
        self.postprocess = create_ffn(hidden_units, dropout_rate, name="postprocess")
        self.compute_logits = layers.Dense(units=num_classes, name="logits")

    def call(self, input_node_indices):
        x = self.preprocess(self.node_features)
        x = self.conv1((x, self.edges, self.edge_weights)) + x
        x = self.conv2((x, self.edges, self.edge_weights)) + x
        x = self.postprocess(x)
        return self.compute_logits(tf.gather(x, input_node_indices))


def build_model(hp):
    model = GNNNodeClassifier(
        graph_info=graph_info,
        num_classes=CLASSES,
        hidden_units=[hp.Choice("units", [8, 16])] * 2,
        aggregation_type=hp.Choice("aggregation_type", ["sum", "mean"]),
        dropout_rate=0.2,
        name="gnn_model",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
    )
    return model


def callbacks(hp):
    return [keras.callbacks.EarlyStopping(monitor="val_acc", patience=50, restore_best_weights=True)]
