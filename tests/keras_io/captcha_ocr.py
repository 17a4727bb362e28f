"""examples/vision/captcha_ocr: the labels are an input, and a layer at the end adds the loss."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

EXPECTED = {
    "special": "batches are dicts of image and label, without y; a layer adds the CTC loss, and compile has none",
    "exports": "keras",
}

characters = sorted("abcdef")
img_width, img_height, max_length = 30, 8, 3
batch_size = 16

# Letters to numbers, and back.
char_to_num = layers.StringLookup(vocabulary=characters, mask_token=None)
num_to_char = layers.StringLookup(vocabulary=char_to_num.get_vocabulary(), mask_token=None, invert=True)


def captchas(samples, seed):
    """Return images (n, 8, 30) of three letters each, and the letters. A letter is one bright row."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(len(characters), size=(samples, max_length))
    images = rng.uniform(0, 0.3, (samples, img_height, img_width))
    for image, word in zip(images, letters, strict=True):
        for place, letter in enumerate(word):
            image[letter + 1, 10 * place + 2 : 10 * place + 8] += 0.7
    labels = ["".join(characters[letter] for letter in word) for word in letters]
    return images.astype("float32"), labels


def encode_single_sample(image, label):
    # The width becomes the time.
    img = tf.transpose(image[..., tf.newaxis], perm=[1, 0, 2])
    label = char_to_num(tf.strings.unicode_split(label, input_encoding="UTF-8"))
    return {"image": img, "label": label}


def make_dataset(samples, seed):
    dataset = tf.data.Dataset.from_tensor_slices(captchas(samples, seed))
    dataset = dataset.map(encode_single_sample, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(batch_size).prefetch(buffer_size=tf.data.AUTOTUNE)


def load_data():
    return make_dataset(128, 0), make_dataset(48, 1)


class CTCLayer(layers.Layer):
    """Add the CTC loss of predictions, and return the predictions."""

    def call(self, y_true, y_pred):
        batch_len = ops.cast(ops.shape(y_true)[0], dtype="int64")
        input_length = ops.cast(ops.shape(y_pred)[1], dtype="int32") * ops.ones((batch_len,), dtype="int32")
        label_length = ops.cast(ops.shape(y_true)[1], dtype="int32") * ops.ones((batch_len,), dtype="int32")
        mask_index = ops.shape(y_pred)[2] - 1
        loss = ops.ctc_loss(ops.cast(y_true, "int32"), y_pred, label_length, input_length, mask_index=mask_index)
        self.add_loss(ops.mean(loss))
        return y_pred


def build_model(hp):
    input_img = layers.Input(shape=(img_width, img_height, 1), name="image", dtype="float32")
    labels = layers.Input(name="label", shape=(None,), dtype="float32")
    filters = hp.Int("filters", 4, 12)
    x = layers.Conv2D(filters, (3, 3), activation="relu", padding="same", name="Conv1")(input_img)
    x = layers.MaxPooling2D((2, 2), name="pool1")(x)
    x = layers.Reshape(target_shape=(img_width // 2, img_height // 2 * filters), name="reshape")(x)
    x = layers.Dense(16, activation="relu", name="dense1")(x)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.3))(x)
    x = layers.Bidirectional(layers.GRU(8, return_sequences=True))(x)
    x = layers.Dense(len(char_to_num.get_vocabulary()) + 1, name="dense2")(x)
    output = CTCLayer(name="ctc_loss")(labels, x)
    model = keras.models.Model(inputs=[input_img, labels], outputs=output, name="ocr_model_v1")
    model.compile(optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")))
    return model
