"""The DAGs of archsync, as Airflow's DAG processor finds them: dispatcher, housekeeper, one per destination."""

from archsync.airflow_glue.dags import build_dags

globals().update(build_dags())
