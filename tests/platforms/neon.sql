-- A cluster where the customer owns its database and is a member of the platform's group. To be run by a superuser,
-- connected to the customer's database; the role `customer` exists.

CREATE ROLE cloud_admin SUPERUSER LOGIN;
CREATE ROLE neon_superuser NOLOGIN CREATEDB CREATEROLE BYPASSRLS REPLICATION;
GRANT pg_read_all_data, pg_write_all_data TO neon_superuser;
GRANT neon_superuser TO customer;
CREATE ROLE anon NOLOGIN;
CREATE ROLE authenticated NOLOGIN;
CREATE ROLE service_role NOLOGIN;
GRANT anon, authenticated, service_role TO customer;
SET SESSION AUTHORIZATION cloud_admin;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO neon_superuser WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO neon_superuser WITH GRANT OPTION;
RESET SESSION AUTHORIZATION;
