-- A Neon-like project: the customer owns its database and is a member of the group that stands for a superuser. Run by
-- the cluster's superuser; `customer` is a login, `database` its database.

CREATE ROLE cloud_admin LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS;
SET SESSION AUTHORIZATION cloud_admin;
CREATE ROLE neon_superuser NOLOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS;
GRANT pg_read_all_data, pg_write_all_data TO neon_superuser;
GRANT pg_monitor, pg_signal_backend TO neon_superuser WITH ADMIN OPTION;
GRANT neon_superuser TO :"customer";
CREATE DATABASE :"database" OWNER :"customer" TEMPLATE template0;
