#!/bin/sh
# Run once by the postgres image, on an empty data folder: a database and a user of its own for Airflow and the ledger.
set -eu
create() {
    # The variables are psql's, which quotes them; nothing here passes through the shell.
    psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres --set=name="$1" --set=password="$2" <<'END'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
END
}
create airflow "$AIRFLOW_DB_PASSWORD"
create archsync "$ARCHSYNC_DB_PASSWORD"
