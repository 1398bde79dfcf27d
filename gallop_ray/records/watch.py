"""Detects changes in a sweep folder of thousands of runs, every second, without reading all of it."""

import time

from gallop_ray.records.folders import ConfigurationFolder, SweepFolder

# Network disks stamp changes as coarsely as one second: a folder younger than this may change without showing it.
_SETTLED_SECONDS = 2.0


class OpenConfigurations:
    """The configurations that may still change. A closed one costs one stat per look, and reopens when it changes."""

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._changed: dict[str, int] = {}
        self._closed: dict[str, int] = {}

    def look(self) -> list[ConfigurationFolder]:
        """The open configurations, by key. A new configuration is open."""
        for path in self._folder.path.iterdir():
            if path.name in self._changed or (path / "configuration.json").exists():
                self._changed[path.name] = path.stat().st_mtime_ns
        return [
            self._folder.configuration(key)
            for key, changed in sorted(self._changed.items())
            if self._closed.get(key) != changed
        ]

    def close(self, configuration: ConfigurationFolder) -> None:
        """Skip the configuration from now on, unless its folder has changed since the last look or changes later."""
        changed = self._changed[configuration.key]
        if time.time() - changed / 1e9 > _SETTLED_SECONDS:
            self._closed[configuration.key] = changed
