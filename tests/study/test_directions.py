"""The direction of a metric by the words of its name, if they leave no doubt."""

from __future__ import annotations

import pytest

from search.study.directions import direction_of_name

DOWN = """
loss val_loss d_loss reconstruction_loss log_loss error word_error_rate mean_absolute_error mae val_mae mse RMSE MSE1
mape msle binary_crossentropy CategoricalCrossentropy categorical_generalized_cross_entropy perplexity kl_divergence
KLDivergence MaxError squared_loss_2
"""
UP = """
accuracy acc val_acc acc5 top_k_categorical_accuracy SparseTopKCategoricalAccuracy auc auc_1 ROCAUC_auc RocAUC precision
recall sensitivity_at_specificity F1Score f1_score f1score f1 val_my_f1 f_beta_score fbeta_score IoU iou mean_io_u mIoU
BinaryIoU dice dice_coef Dice2 r2 r2_score R2Score pearson_correlation weighted_accuracy head_auc top-1-accuracy
"""
UNKNOWN = """
score wobble learning_rate total mean cosine_similarity hinge poisson true_positives positives lossless inaccuracy value
f12 r20 half_1 accurate default_objective
"""
DOUBTFUL = """
neg_loss negMSE negative_accuracy inverse_mse non_accuracy false_positive_rate false_accuracy one_minus_dice 1-accuracy
loss_accuracy dice_loss iou_error accuracy_gap loss_scale auc_std mse_skill_score accuracyDrop precision_threshold
"""


@pytest.mark.parametrize(
    ("names", "direction"), [(DOWN, "min"), (UP, "max"), (UNKNOWN, None), (DOUBTFUL, None), ("-", None)]
)
def test_words_decide_unless_they_leave_doubt(names: str, direction: str | None) -> None:
    found = {name: direction_of_name(name) for name in names.split()}
    assert found == dict.fromkeys(found, direction)


@pytest.mark.parametrize("name", ["", "1 - accuracy", "(1-auc)", "é", "<lambda>"])
def test_any_text_may_be_a_name(name: str) -> None:
    assert direction_of_name(name) is None
