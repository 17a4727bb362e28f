"""Whether a tracking server lets us in, asked before anything is written; and what else of MLflow takes seconds."""

from __future__ import annotations

import threading
from contextlib import suppress

from search.errors import SearchError, Unavailable
from search.options import Options
from search.tracking.mlflow import database, store


class Admission:
    """Asks in a thread, while the framework is being imported. For a local store MLflow is imported, and a fresh
    database made where it has none: no worker trains yet that would have to share its processor with that."""

    def __init__(self, opts: Options) -> None:
        self._uri = store.resolve_uri(opts.tracking_uri, opts.runs)
        self._error: SearchError | None = None
        self._thread = threading.Thread(target=self._connect, daemon=True)
        self._thread.start()

    def result(self, opts: Options) -> str:
        """The tracking address. TrackingRefused where the server says no; of one out of reach the syncer warns."""
        if store.local_database(self._uri) is None:
            self._thread.join()
        if store.resolve_uri(opts.tracking_uri, opts.runs) != self._uri:
            return Admission(opts).result(opts)
        if self._error is not None and not isinstance(self._error, Unavailable):
            raise self._error
        return self._uri

    def _connect(self) -> None:
        file = store.local_database(self._uri)
        if file is not None:
            # Its place is the syncer's to take: nothing is written before all is checked. So is what goes wrong to say.
            with suppress(Exception):
                store.prepare()
                if file.exists():
                    database.warm()
                else:
                    database.prepare()
            return
        try:
            store.connect(self._uri)
        except SearchError as error:
            self._error = error
