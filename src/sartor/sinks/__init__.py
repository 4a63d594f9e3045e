"""Sinks: functions from Event to None. The console is one; the run's own log is written by the stages themselves."""

NOT_MEMBERS: frozenset[str] = frozenset({"inspection", "tables"})
