"""archsync keeps external imaging archives in step with the clinical platform, inside Apache Airflow."""

__version__ = "0.1.0"
