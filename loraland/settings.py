"""Settings of the site. Every one that a deployment may change is an environment variable, read here only."""

from __future__ import annotations

from pathlib import Path

import dj_database_url
from csp.constants import NONCE, NONE, SELF

from inference.bases import base_name
from inference.config import DEFAULT_CACHE_MB, LOG_LEVELS, folder_of_adapters
from inference.wire.address import embedded_redis_url
from loraland import environment

REPO_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = Path(environment.text("VAR_DIR", str(REPO_DIR / "var"))).resolve()

DEBUG = environment.flag("DEBUG", False)
SECRET_KEY = environment.secret("SECRET_KEY", VAR_DIR / "secret_key")
HTTPS = environment.flag("HTTPS", False)
ALLOWED_HOSTS = environment.words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = environment.words("CSRF_TRUSTED_ORIGINS", "")
CORS_ORIGINS = environment.origins("CORS_ORIGINS")

# Whom to believe about a visitor's address and scheme, and who may see how the site is doing inside
TRUSTED_PROXIES = environment.networks("TRUSTED_PROXIES", "127.0.0.0/8,::1")
INTERNAL_ADDRESSES = environment.networks("INTERNAL_ADDRESSES", "127.0.0.0/8,::1")

# What `python -m loraland` starts
HOST = environment.text("HOST", "127.0.0.1")
PORT = environment.number("PORT", 8000, 1, 65535)
WEB_PROCESSES = environment.number("WEB_PROCESSES", 1, 1, 64)
WORKER_NAME = environment.text("WORKER_NAME", "")
TRAINER_DEVICE = environment.text("TRAINER_DEVICE", "cpu")

# The worker's side of the house
EMBEDDED_REDIS_URL = embedded_redis_url(VAR_DIR)
REDIS_URL = environment.text("REDIS_URL", EMBEDDED_REDIS_URL)
REDIS_IS_EMBEDDED = REDIS_URL == EMBEDDED_REDIS_URL
BASE_MODELS = environment.bases()
BASE_MODEL = BASE_MODELS[0]
BASE_NAME = base_name(BASE_MODEL)
BASE_KEY = BASE_NAME.lower()
WORKERS = environment.number_of_each("WORKERS", 1, 0, 64, BASE_MODELS)
MODELS_DIR = VAR_DIR / "models"
ADAPTER_STORE_OPTIONS = environment.text("ADAPTER_STORE_OPTIONS", "")
ADAPTER_STORE = environment.address("ADAPTER_STORE", ADAPTER_STORE_OPTIONS)
ADAPTER_CACHE_MB = environment.number("ADAPTER_CACHE_MB", DEFAULT_CACHE_MB, 1, 1_000_000_000)
ADAPTERS_DIR = folder_of_adapters(ADAPTER_STORE, VAR_DIR)
DATASETS_DIR = VAR_DIR / "datasets"
TRAININGS_DIR = VAR_DIR / "trainings"
QUARANTINE_DIR = VAR_DIR / "quarantine"
DEMO_ADAPTERS_DIR = REPO_DIR / "adapters"
RESULTS_DIR = REPO_DIR / "results"
MAX_RANK = environment.number_of_each("MAX_RANK", 64, 1, 512, BASE_MODELS)

# Limits
QUEUE_LIMIT = environment.number("QUEUE_LIMIT", 512, 1, 1_000_000)
MAX_INPUT_CHARS = environment.number("MAX_INPUT_CHARS", 32_000, 1, 10_000_000)
MAX_NEW_TOKENS = environment.number("MAX_NEW_TOKENS", 1024, 1, 1_000_000)
AUTO_THRESHOLD = environment.number("AUTO_THRESHOLD", 10, 0, 100)
MAX_RUNNING_PER_VISITOR = environment.number("MAX_RUNNING_PER_VISITOR", 8, 1, 10_000)
MAX_RUNNING_PER_ADDRESS = environment.number("MAX_RUNNING_PER_ADDRESS", 32, 1, 1_000_000)
MAX_RUNNING_PER_KEY = environment.number("MAX_RUNNING_PER_KEY", 4096, 1, 1_000_000)
UNREAD_SECONDS = environment.number("UNREAD_SECONDS", 120, 5, 86_400)
ANONYMOUS_PER_HOUR = environment.number("ANONYMOUS_PER_HOUR", 300, 1, 1_000_000)
MAX_CONNECTIONS = environment.number("MAX_CONNECTIONS", 4096, 1, 1_000_000)
MAX_CONNECTIONS_PER_ADDRESS = environment.number("MAX_CONNECTIONS_PER_ADDRESS", 512, 1, 1_000_000)
LOAD_ADAPTERS_FROM = environment.text("LOAD_ADAPTERS_FROM", "")
MAX_UPLOAD_MB = environment.number("MAX_UPLOAD_MB", 512, 1, 100_000)
STREAM_TTL_SECONDS = environment.number("STREAM_TTL_SECONDS", 3600, 1, 10_000_000)

INSTALLED_APPS = [
    "loraland.catalogue",
    "loraland.generations",
    "loraland.playground",
    "loraland.evals",
    "loraland.training",
    "loraland.api",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "django_htmx",
    "csp",
    "channels",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "loraland.static_files.StaticFiles",
    "loraland.middleware.Compress",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "loraland.middleware.NotNow",
]

# What programs pass that show a key to /v1: no session, no cookie, no form (see `loraland.handlers`)
API_MIDDLEWARE = ["loraland.middleware.Security", "loraland.middleware.Common", "loraland.middleware.OneShape"]

ROOT_URLCONF = "loraland.urls"
ASGI_APPLICATION = "loraland.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [REPO_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
            ],
        },
    },
]

DATABASE_WAIT_SECONDS = environment.number("DATABASE_WAIT_SECONDS", 20, 1, 600)
DATABASE_POOL = environment.number("DATABASE_POOL", 20, 1, 1000)
DATABASES = {
    "default": dj_database_url.parse(
        environment.text("DATABASE_URL", f"sqlite:///{VAR_DIR}/db.sqlite3"),
        conn_max_age=0,
        conn_health_checks=True,
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": DATABASE_WAIT_SECONDS,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    DATABASES["default"]["TEST"] = {"NAME": str(VAR_DIR / "test.sqlite3")}
else:
    # Every request has a thread of its own, and would otherwise open a connection of its own in a burst.
    asked = DATABASES["default"].get("OPTIONS", {})  # such as sslmode, behind the question mark of the address
    DATABASES["default"]["OPTIONS"] = {
        **asked,
        "pool": {"min_size": 1, "max_size": DATABASE_POOL, "timeout": DATABASE_WAIT_SECONDS},
        "options": f"{asked.get('options', '')} -c lock_timeout={DATABASE_WAIT_SECONDS}s".strip(),
    }

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "cache",
    }
}

# One alone: each would hash a wrong password again
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
PASSWORD_HASHERS = [
    "loraland.edge.hashing.Argon2",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
ACCOUNT_ADAPTER = "loraland.playground.accounts.Accounts"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_RATE_LIMITS = {"login_failed": None}  # counted in `loraland.playground.attempts`
LOGIN_URL = "account_login"
ACCOUNT_SESSION_REMEMBER = True
LOGIN_REDIRECT_URL = "catalogue"
ACCOUNT_LOGOUT_REDIRECT_URL = "catalogue"

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^health$", r"^ping$", r"^metrics$"]
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF],
        "connect-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
STATICFILES_DIRS = [REPO_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": QUARANTINE_DIR}},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]

CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_TIME_LIMIT = 600
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CONCURRENCY = environment.number("CELERY_WORKER_CONCURRENCY", 1, 1, 64)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 1800}
FOLLOW_TRAININGS_SECONDS = 3
FORGET_STRANGERS_SECONDS = 3600
COMPLETE_SECONDS = 600
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"  # keeps no file: its jobs are due from the start on
CELERY_BEAT_SCHEDULE = {
    "follow trainings": {
        "task": "loraland.training.tasks.follow_trainings",
        "schedule": FOLLOW_TRAININGS_SECONDS,
        "options": {"expires": FOLLOW_TRAININGS_SECONDS},
    },
    "forget strangers": {
        "task": "loraland.playground.tasks.forget_strangers",
        "schedule": FORGET_STRANGERS_SECONDS,
        "options": {"expires": FORGET_STRANGERS_SECONDS},
    },
    "drop left uploads": {
        "task": "loraland.catalogue.tasks.drop_left_uploads",
        "schedule": FORGET_STRANGERS_SECONDS,
        "options": {"expires": FORGET_STRANGERS_SECONDS},
    },
    "complete lists": {
        "task": "loraland.catalogue.tasks.complete_lists",
        "schedule": COMPLETE_SECONDS,
        "options": {"expires": COMPLETE_SECONDS},
    },
    "complete standings": {
        "task": "loraland.evals.tasks.complete_standings",
        "schedule": COMPLETE_SECONDS,
        "options": {"expires": COMPLETE_SECONDS},
    },
}

# Another model to measure beside ours, at any server that speaks the OpenAI dialect
REFERENCE_URL = environment.text("REFERENCE_URL", "")
REFERENCE_KEY = environment.text("REFERENCE_KEY", "")
REFERENCE_MODEL = environment.text("REFERENCE_MODEL", "")

LOG_LEVEL = environment.choice("LOG_LEVEL", "info", LOG_LEVELS)
# uvicorn tells of every visitor and Celery of every job, and Django's lowest level shows what a template was given.
FRAMEWORKS_LOG_LEVEL = {"debug": "info", "info": "warning"}.get(LOG_LEVEL, LOG_LEVEL)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "filters": {
        # A 503 is an answer (not ready yet, queue full), not a fault of the site.
        "faults": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", 0) != 503,
        },
        "brief": {"()": "loraland.logs.Brief"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["faults", "brief"]}},
    "loggers": {name: {"level": FRAMEWORKS_LOG_LEVEL.upper()} for name in ("django", "celery")},
    "root": {"handlers": ["console"], "level": LOG_LEVEL.upper()},
}
