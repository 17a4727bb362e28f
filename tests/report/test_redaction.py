"""Secrets are hidden, and all else stays as it is."""

from __future__ import annotations

import pytest

from search.report.redaction import hide_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://bob:hunter2@db/x", "postgresql://***@db/x"),
        ("http://bob:hun/ter2@host:5000/a", "http://***@host:5000/a"),
        ("https://host/p?token=abc123&size=9", "https://host/p?token=***&size=9"),
        ("s3://bucket/x?secret=abc&key=def", "s3://bucket/x?secret=***&key=***"),
        ("AWS_SECRET_ACCESS_KEY=abcdEFGH1234 next", "AWS_SECRET_ACCESS_KEY=*** next"),
        ("API_KEY = 'hunter2'", "API_KEY = '***'"),
        ('{"password": "a b c", "n": 1}', '{"password": "***", "n": 1}'),
        ("Authorization: Bearer abcdefghij.klm", "Authorization: Bearer ***"),
        ("key AKIAABCDEFGHIJKLMNOP was refused", "key *** was refused"),
        ("hf_abcdefghijklmnopqrstuvwx", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\nabc\n-----END RSA PRIVATE KEY-----\nafter", "***\nafter"),
    ],
)
def test_a_secret_is_hidden(text: str, shown: str) -> None:
    assert hide_secrets(text, {}) == shown


@pytest.mark.parametrize(
    "text",
    [
        "layers.MultiHeadAttention(num_heads=4, key_dim=64)",
        "token_dropout=0.25 lr=0.001 tokens=128",
        "http://host:5000/#/experiments/1?size=9",
        "password = getpass.getpass()",
        "token = os.environ['TOKEN']",
        "KeyError: 'units'",
        "search run digits.py --max-epochs 9 --seed 3",
        "sk-learn: 1 < 2 & 3",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert hide_secrets(text, {}) == text


def test_the_secrets_of_the_environment_are_hidden_wherever_they_stand() -> None:
    environment = {"MLFLOW_TRACKING_PASSWORD": "correct horse", "PWD": "/home/somebody", "X_TOKEN": "yes"}
    environment["AWS_CREDENTIALS_FILE"] = "/home/somebody/aws"
    text = "login of correct horse failed in /home/somebody/aws: yes"
    assert hide_secrets(text, environment) == "login of *** failed in /home/somebody/aws: yes"
