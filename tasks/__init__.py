"""Each step of the flow as a Prefect task: a label on a plain function of gswa/, with its artifact, its retries."""

import logging

logging.getLogger("gswa").setLevel(logging.INFO)  # pyproject.toml's extra_loggers gives it the dashboard's handler, but no level
