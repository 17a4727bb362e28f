"""URLs of storage: credentials in them are neither stored nor shown."""

from __future__ import annotations

import sys

import pytest

from search.errors import OptionError, Unavailable
from search.storage.urls import describe, drop_credentials, join_url, open_url, storage_errors


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/studies", "s3://bucket/studies"),
        ("s3://KEY:SE/CR@ET@bucket/studies", "s3://bucket/studies"),
        ("s3://TOKEN@bucket/studies", "s3://bucket/studies"),
        ("sftp://ann:pw@host:22/studies", "sftp://host:22/studies"),
        ("sftp://ann@host/studies", "sftp://ann@host/studies"),
        ("hdfs://host:9000/a@b", "hdfs://host:9000/a@b"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("s3://b/x?key=K&secret=S&endpoint_url=http://m:9000", "s3://b/x?endpoint_url=http://m:9000"),
        ("s3://b/x?sig=K", "s3://b/x"),
        ("s3://b/x?endpoint_url=http://ann:pw@m:9000", "s3://b/x?endpoint_url=http://m:9000"),
        ("/mnt/a:b@c/studies", "/mnt/a:b@c/studies"),
    ],
)
def test_credentials_are_dropped(url: str, shown: str) -> None:
    assert drop_credentials(url) == shown
    assert drop_credentials(shown) == shown


def test_a_place_below_a_url_keeps_the_query() -> None:
    assert join_url("s3://b/x/?profile=p", "d-1", "trials") == "s3://b/x/d-1/trials?profile=p"
    assert join_url("/mnt/what?/", "d") == "/mnt/what?/d"


def test_an_error_of_a_file_system_loses_the_credentials_of_its_url() -> None:
    url = "s3://KEY:SECRET@bucket/x?token=T0KEN"
    with pytest.raises(Unavailable) as caught, storage_errors(url):
        raise ValueError("no bucket KEY:SECRET@bucket, or SECRET, or T0KEN")
    assert str(caught.value) == (
        "storage s3://bucket/x does not answer (ValueError: no bucket ***@bucket, or ***, or ***)"
    )
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "SECRET" not in describe(PermissionError("KEY:SECRET is wrong"), url)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"--storage gs://b/x needs gcsfs: pip install gcsfs"):
        open_url("gs://b/x")
    with pytest.raises(OptionError, match=r"does not know the protocol s4\. Did you mean"):
        open_url("s4://b/x")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(OptionError, match="--storage needs fsspec: pip install fsspec"):
        open_url("s3://b/x")
