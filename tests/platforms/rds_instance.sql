-- An RDS-like instance: the provider keeps the superuser and gives its customer a group of rights. Run by the cluster's
-- superuser; `customer` is a login.

CREATE ROLE rdsadmin LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS;
SET SESSION AUTHORIZATION rdsadmin;
CREATE ROLE rds_replication NOLOGIN;
CREATE ROLE rds_password NOLOGIN;
CREATE ROLE rds_superuser NOLOGIN;
GRANT pg_monitor, pg_signal_backend, rds_replication, rds_password TO rds_superuser WITH ADMIN OPTION;
GRANT pg_read_all_data, pg_write_all_data TO rds_superuser;
GRANT rds_superuser TO :"customer";
ALTER DATABASE template0 OWNER TO rdsadmin;
CREATE DATABASE rdsadmin OWNER rdsadmin;
REVOKE ALL ON DATABASE rdsadmin FROM PUBLIC;
