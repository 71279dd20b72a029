"""Settings of the project that the tests run; where its databases are is in the environment."""

from __future__ import annotations

import json
import os
from typing import Any

import pymysql

pymysql.install_as_MySQLdb()

DATABASES: dict[str, dict[str, Any]] = json.loads(os.environ["DJSHOP_DATABASES"])
INSTALLED_APPS = ["asynctasq_django", "djshop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SECRET_KEY = "tests"
USE_TZ = True
ASYNCTASQ: dict[str, Any] = json.loads(os.environ.get("DJSHOP_ASYNCTASQ", '{"driver": "memory"}'))
_BACKEND = {"BACKEND": "asynctasq_django.tasks_backend.AsynctasqBackend", "QUEUES": []}
TASKS: dict[str, Any] = {
    "default": _BACKEND,
    "processes": {**_BACKEND, "OPTIONS": {"process": True, "max_attempts": 1}},
}
LOGGING: dict[str, Any] = json.loads(os.environ.get("DJSHOP_LOGGING", "{}"))
