def test_a(airflow_db):
    import airflow.sdk, airflow.models
    from airflow.dag_processing.dagbag import DagBag
    b=DagBag("/work/main/dags"); print(b.import_errors, list(b.dags))
    from airflow.providers.postgres.hooks.postgres import PostgresHook
    import airflow.api_fastapi.app as a
    a.create_app()
