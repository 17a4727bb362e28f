"""Whether a tracking server lets us in, asked before anything is written."""

from __future__ import annotations

import threading

from search.errors import SearchError, Unavailable
from search.options import Options
from search.tracking import store


class Admission:
    """Asks in a thread, while the framework is being imported: MLflow takes seconds to import, too."""

    def __init__(self, opts: Options) -> None:
        self._uri = store.resolve_uri(opts.tracking_uri, opts.runs)
        self._error: SearchError | None = None
        self._thread = threading.Thread(target=self._connect, daemon=True)
        self._thread.start()

    def result(self, opts: Options) -> str:
        """The tracking address. TrackingRefused where the server says no; of one out of reach the syncer warns."""
        self._thread.join()
        if store.resolve_uri(opts.tracking_uri, opts.runs) != self._uri:
            return Admission(opts).result(opts)
        if self._error is not None and not isinstance(self._error, Unavailable):
            raise self._error
        return self._uri

    def _connect(self) -> None:
        if store.local_database(self._uri) is not None:
            return  # made by the syncer: nothing is written before all is checked
        try:
            store.connect(self._uri)
        except SearchError as error:
            self._error = error
