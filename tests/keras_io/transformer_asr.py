"""examples/audio/transformer_asr: speech to letters, by a model that is called on two parts of a batch."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "special": "batches are dicts of source and target; call takes [source, target without its last letter]",
    "exports": "weights",
    "reason": "its layers have no get_config",
    "kind": "a call on something else than the batch",
}

num_classes = 8
target_len = 7
source_len = 32


def utterances(samples, seed):
    """Return sounds (n, 32, 6), and the letters in them: 1 begins, 2 ends, 0 pads."""
    rng = np.random.default_rng(seed)
    audio = rng.normal(0, 0.3, (samples, source_len, 6)).astype("float32")
    text = np.zeros((samples, target_len), "int32")
    for sound, letters in zip(audio, text, strict=True):
        length = int(rng.integers(2, 5))
        letters[: length + 2] = [1, *rng.integers(3, num_classes, length), 2]
        for place, letter in enumerate(letters[1 : length + 1]):
            sound[6 * place : 6 * place + 6, letter - 3] += 1
    return audio, text


def create_tf_dataset(samples, seed, bs):
    audio_ds, text_ds = map(tf.data.Dataset.from_tensor_slices, utterances(samples, seed))
    ds = tf.data.Dataset.zip((audio_ds, text_ds))
    ds = ds.map(lambda x, y: {"source": x, "target": y})
    return ds.batch(bs).prefetch(tf.data.AUTOTUNE)


def load_data():
    return create_tf_dataset(128, 0, bs=16), create_tf_dataset(32, 1, bs=4)


class TokenEmbedding(layers.Layer):
    def __init__(self, num_vocab, maxlen, num_hid):
        super().__init__()
        self.emb = layers.Embedding(num_vocab, num_hid)
        self.pos_emb = layers.Embedding(input_dim=maxlen, output_dim=num_hid)

    def call(self, x):
        maxlen = tf.shape(x)[-1]
        positions = tf.range(start=0, limit=maxlen, delta=1)
        return self.emb(x) + self.pos_emb(positions)


class SpeechFeatureEmbedding(layers.Layer):
    def __init__(self, num_hid):
        super().__init__()
        self.conv1 = layers.Conv1D(num_hid, 5, strides=2, padding="same", activation="relu")
        self.conv2 = layers.Conv1D(num_hid, 5, strides=2, padding="same", activation="relu")

    def call(self, x):
        return self.conv2(self.conv1(x))


class TransformerEncoder(layers.Layer):
    def __init__(self, embed_dim, num_heads, feed_forward_dim, rate):
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential([layers.Dense(feed_forward_dim, activation="relu"), layers.Dense(embed_dim)])
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1 = layers.Dropout(rate)
        self.dropout2 = layers.Dropout(rate)

    def call(self, inputs, training=False):
        attn_output = self.dropout1(self.att(inputs, inputs), training=training)
        out1 = self.layernorm1(inputs + attn_output)
        ffn_output = self.dropout2(self.ffn(out1), training=training)
        return self.layernorm2(out1 + ffn_output)


class TransformerDecoder(layers.Layer):
    def __init__(self, embed_dim, num_heads, feed_forward_dim, rate):
        super().__init__()
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6)
        self.self_att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.enc_att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.self_dropout = layers.Dropout(rate)
        self.ffn = keras.Sequential([layers.Dense(feed_forward_dim, activation="relu"), layers.Dense(embed_dim)])

    def causal_attention_mask(self, batch_size, n_dest, n_src, dtype):
        i = tf.range(n_dest)[:, None]
        j = tf.range(n_src)
        mask = tf.reshape(tf.cast(i >= j - n_src + n_dest, dtype), [1, n_dest, n_src])
        mult = tf.concat([tf.expand_dims(batch_size, -1), tf.constant([1, 1], dtype=tf.int32)], 0)
        return tf.tile(mask, mult)

    def call(self, enc_out, target):
        input_shape = tf.shape(target)
        causal_mask = self.causal_attention_mask(input_shape[0], input_shape[1], input_shape[1], tf.bool)
        target_att = self.self_att(target, target, attention_mask=causal_mask)
        target_norm = self.layernorm1(target + self.self_dropout(target_att))
        enc_out_norm = self.layernorm2(self.enc_att(target_norm, enc_out) + target_norm)
        return self.ffn(enc_out_norm)


class Transformer(keras.Model):
    def __init__(self, num_hid, num_head, num_feed_forward, num_layers_enc, num_layers_dec, rate):
        super().__init__()
        self.loss_metric = keras.metrics.Mean(name="loss")
        self.num_layers_enc = num_layers_enc
        self.num_layers_dec = num_layers_dec
        self.num_classes = num_classes
        self.enc_input = SpeechFeatureEmbedding(num_hid=num_hid)
        self.dec_input = TokenEmbedding(num_vocab=num_classes, maxlen=target_len, num_hid=num_hid)
        self.encoder = keras.Sequential(
            [self.enc_input]
            + [TransformerEncoder(num_hid, num_head, num_feed_forward, rate) for _ in range(num_layers_enc)]
        )
        for i in range(num_layers_dec):
            setattr(self, f"dec_layer_{i}", TransformerDecoder(num_hid, num_head, num_feed_forward, rate))
        self.classifier = layers.Dense(num_classes)

    def decode(self, enc_out, target):
        y = self.dec_input(target)
        for i in range(self.num_layers_dec):
            y = getattr(self, f"dec_layer_{i}")(enc_out, y)
        return y

    def call(self, inputs):
        source = inputs[0]
        target = inputs[1]
        return self.classifier(self.decode(self.encoder(source), target))

    @property
    def metrics(self):
        return [self.loss_metric]

    def loss_of(self, batch):
        source = batch["source"]
        target = batch["target"]
        dec_input = target[:, :-1]
        dec_target = target[:, 1:]
        preds = self([source, dec_input])
        one_hot = tf.one_hot(dec_target, depth=self.num_classes)
        mask = tf.math.logical_not(tf.math.equal(dec_target, 0))
        return self.compute_loss(None, one_hot, preds, sample_weight=mask)

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = self.loss_of(batch)
        trainable_vars = self.trainable_variables
        gradients = tape.gradient(loss, trainable_vars)
        self.optimizer.apply_gradients(zip(gradients, trainable_vars, strict=True))
        self.loss_metric.update_state(loss)
        return {"loss": self.loss_metric.result()}

    def test_step(self, batch):
        self.loss_metric.update_state(self.loss_of(batch))
        return {"loss": self.loss_metric.result()}


class CustomSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises, then falls."""

    def __init__(self, lr_after_warmup, warmup_epochs=1, decay_epochs=4, steps_per_epoch=8):
        super().__init__()
        self.lr_after_warmup = lr_after_warmup
        self.warmup_epochs = warmup_epochs
        self.decay_epochs = decay_epochs
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step):
        epoch = tf.cast(step, tf.float32) / self.steps_per_epoch
        warmup_lr = self.lr_after_warmup * (epoch + 0.1) / self.warmup_epochs
        decay_lr = self.lr_after_warmup * (1 - (epoch - self.warmup_epochs) / self.decay_epochs)
        return tf.math.minimum(warmup_lr, tf.math.maximum(1e-5, decay_lr))


def build_model(hp):
    model = Transformer(
        num_hid=hp.Int("num_hid", 8, 16, step=8),
        num_head=2,
        num_feed_forward=16,
        num_layers_enc=1,
        num_layers_dec=1,
        rate=hp.Float("rate", 0.0, 0.3),
    )
    loss_fn = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    learning_rate = CustomSchedule(hp.Float("lr_after_warmup", 1e-3, 1e-2, sampling="log"))
    model.compile(optimizer=keras.optimizers.Adam(learning_rate), loss=loss_fn)
    return model
