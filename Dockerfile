# Airflow with archsync and its locked requirements. Build: docker compose build
FROM apache/airflow:3.3.2-python3.12

COPY --chown=airflow:0 requirements.txt /opt/airflow/requirements.txt
RUN pip install --no-cache-dir --require-hashes -r /opt/airflow/requirements.txt

COPY --chown=airflow:0 plugins /opt/airflow/plugins
COPY --chown=airflow:0 dags /opt/airflow/dags
COPY --chown=airflow:0 include /opt/airflow/include
COPY --chown=airflow:0 docs /opt/airflow/docs

# plugins/ must be importable before Airflow looks for providers: that is how it finds archsync's connection types.
ENV PYTHONPATH=/opt/airflow/plugins:/opt/airflow/include
