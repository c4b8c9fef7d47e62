-- A cluster whose provider keeps the superuser and gives its customer a group of rights. To be run by a superuser,
-- connected to the customer's database; the role `customer` exists.

CREATE ROLE rdsadmin SUPERUSER LOGIN;
CREATE ROLE rds_superuser NOLOGIN;
CREATE ROLE rds_replication NOLOGIN;
GRANT pg_read_all_data, pg_monitor, pg_signal_backend, rds_replication TO rds_superuser;
GRANT rds_superuser TO customer;
CREATE ROLE anon NOLOGIN;
CREATE ROLE authenticated NOLOGIN;
CREATE ROLE service_role NOLOGIN;
GRANT anon, authenticated, service_role TO customer;
SET SESSION AUTHORIZATION rdsadmin;
CREATE FUNCTION public.rds_heartbeat() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
GRANT EXECUTE ON FUNCTION public.rds_heartbeat() TO rds_superuser;
RESET SESSION AUTHORIZATION;
