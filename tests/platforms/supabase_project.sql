-- A Supabase-like project before its customer made anything: nobody who may log in from outside is a superuser, and most
-- of the database `postgres` is the platform's. Run by the cluster's superuser; `customer` is a login.

SET client_min_messages = warning;

CREATE ROLE supabase_admin LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS;
CREATE ROLE anon NOLOGIN;
CREATE ROLE authenticated NOLOGIN;
CREATE ROLE service_role NOLOGIN BYPASSRLS;
CREATE ROLE authenticator LOGIN NOINHERIT;
CREATE ROLE dashboard_user NOLOGIN CREATEDB CREATEROLE REPLICATION;
CREATE ROLE pgbouncer LOGIN;
CREATE ROLE supabase_auth_admin LOGIN NOINHERIT CREATEROLE;
CREATE ROLE supabase_storage_admin LOGIN NOINHERIT CREATEROLE;
ALTER ROLE anon SET statement_timeout = '3s';
ALTER ROLE authenticated SET statement_timeout = '8s';
ALTER ROLE supabase_auth_admin SET search_path = auth;
ALTER ROLE supabase_storage_admin SET search_path = storage;
ALTER ROLE :"customer" SET search_path = "$user", public, extensions;
ALTER DATABASE postgres OWNER TO :"customer";
ALTER DATABASE postgres SET "app.settings.jwt_exp" = '3600';

SET SESSION AUTHORIZATION supabase_admin;

GRANT anon, authenticated, service_role TO authenticator;
GRANT authenticator TO supabase_storage_admin;
GRANT supabase_auth_admin, supabase_storage_admin TO :"customer";
-- Before 16, CREATEROLE alone was enough to hand these on.
SELECT current_setting('server_version_num')::integer >= 160000 AS memberships_have_options \gset
\if :memberships_have_options
GRANT anon, authenticated, service_role, authenticator, pg_read_all_data, pg_monitor, pg_signal_backend TO :"customer"
    WITH ADMIN OPTION;
\else
GRANT anon, authenticated, service_role, authenticator, pg_read_all_data, pg_monitor, pg_signal_backend TO :"customer";
\endif

-- ---- what the customer's objects get ---------------------------------------------------------------------------------

GRANT USAGE ON SCHEMA public TO :"customer", anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO :"customer", anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO :"customer", anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO :"customer", anon, authenticated, service_role;
SET SESSION AUTHORIZATION :"customer";
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
CREATE PUBLICATION supabase_realtime;
SET SESSION AUTHORIZATION supabase_admin;

-- ---- extensions ------------------------------------------------------------------------------------------------------

CREATE SCHEMA extensions;
GRANT USAGE ON SCHEMA extensions TO anon, authenticated, service_role;
GRANT ALL ON SCHEMA extensions TO :"customer", dashboard_user;
SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm') AS trigrams \gset
\if :trigrams
CREATE EXTENSION pg_trgm SCHEMA extensions;
GRANT EXECUTE ON FUNCTION extensions.show_trgm(text) TO :"customer" WITH GRANT OPTION;
GRANT EXECUTE ON FUNCTION extensions.show_trgm(text) TO dashboard_user;
\endif

-- ---- who may log in --------------------------------------------------------------------------------------------------

CREATE SCHEMA auth;
GRANT ALL ON SCHEMA auth TO supabase_auth_admin, dashboard_user;
GRANT USAGE ON SCHEMA auth TO :"customer", anon, authenticated, service_role;
SET SESSION AUTHORIZATION supabase_auth_admin;
CREATE TABLE auth.users (
    id uuid PRIMARY KEY,
    email varchar(255) UNIQUE,
    encrypted_password varchar(255),
    raw_user_meta_data jsonb,
    created_at timestamptz NOT NULL
);
CREATE TABLE auth.refresh_tokens (
    id bigserial PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    token varchar(255) UNIQUE
);
CREATE TABLE auth.schema_migrations (version varchar(14) PRIMARY KEY);
INSERT INTO auth.schema_migrations VALUES ('20240101000000'), ('20250101000000');
CREATE INDEX users_created ON auth.users (created_at);
ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.refresh_tokens ENABLE ROW LEVEL SECURITY;
COMMENT ON TABLE auth.users IS 'those who may log in to the application';
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE
    AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE
    AS $$ SELECT nullif(current_setting('request.jwt.claim.role', true), '') $$;
COMMENT ON FUNCTION auth.uid() IS 'whose request this is';
GRANT ALL ON ALL TABLES IN SCHEMA auth TO dashboard_user;
GRANT SELECT ON auth.users TO :"customer" WITH GRANT OPTION;
REVOKE ALL ON auth.schema_migrations FROM dashboard_user;
SET SESSION AUTHORIZATION supabase_admin;

-- ---- files -----------------------------------------------------------------------------------------------------------

CREATE SCHEMA storage;
GRANT ALL ON SCHEMA storage TO supabase_storage_admin, dashboard_user;
GRANT USAGE ON SCHEMA storage TO :"customer", anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA storage GRANT ALL ON TABLES TO :"customer", anon, authenticated, service_role;
SET SESSION AUTHORIZATION supabase_storage_admin;
CREATE TABLE storage.buckets (id text PRIMARY KEY, name text NOT NULL UNIQUE, public boolean NOT NULL DEFAULT false);
CREATE TABLE storage.objects (
    id uuid PRIMARY KEY,
    bucket_id text REFERENCES storage.buckets,
    name text,
    owner uuid,
    metadata jsonb,
    folders text[] GENERATED ALWAYS AS (string_to_array(name, '/')) STORED
);
ALTER TABLE storage.buckets ENABLE ROW LEVEL SECURITY;
ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;
GRANT ALL ON storage.buckets, storage.objects TO anon, authenticated, service_role;
GRANT ALL ON storage.buckets, storage.objects TO :"customer" WITH GRANT OPTION;
CREATE FUNCTION storage.extension(name text) RETURNS text LANGUAGE plpgsql IMMUTABLE
    AS $$ BEGIN RETURN substring(name FROM '[^.]*$'); END $$;
SET SESSION AUTHORIZATION supabase_admin;

-- ---- the rest of the platform ----------------------------------------------------------------------------------------

CREATE SCHEMA realtime;
GRANT USAGE ON SCHEMA realtime TO :"customer", anon, authenticated, service_role;
CREATE TYPE realtime.action AS ENUM ('INSERT', 'UPDATE', 'DELETE');
CREATE TABLE realtime.subscription (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity text NOT NULL,
    action realtime.action,
    claims jsonb
);
CREATE TABLE realtime.messages (topic text NOT NULL, payload jsonb, at timestamp NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE realtime.messages_2026_01_01 PARTITION OF realtime.messages FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON realtime.messages TO anon, authenticated, service_role;
CREATE FUNCTION realtime.topic() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('realtime.topic', true) $$;
CREATE PUBLICATION supabase_realtime_messages_publication FOR TABLE realtime.messages;

CREATE SCHEMA graphql;
CREATE SCHEMA graphql_public;
GRANT USAGE ON SCHEMA graphql, graphql_public TO :"customer", anon, authenticated, service_role;
CREATE SEQUENCE graphql.seq_schema_version CYCLE;
CREATE FUNCTION graphql.resolve(query text) RETURNS jsonb LANGUAGE plpgsql
    AS $$ BEGIN RETURN jsonb_build_object('errors', jsonb_build_array('not enabled: ' || query)); END $$;
CREATE FUNCTION graphql_public.graphql(query text DEFAULT NULL) RETURNS jsonb LANGUAGE sql
    AS $$ SELECT graphql.resolve(query) $$;

CREATE SCHEMA pgbouncer AUTHORIZATION pgbouncer;
-- Runs as the superuser: whoever restores it must not hand that on.
CREATE FUNCTION pgbouncer.get_auth(login text) RETURNS TABLE (username text, password text) LANGUAGE sql SECURITY DEFINER
    SET search_path = '' AS $$ SELECT s.usename::text, s.passwd FROM pg_catalog.pg_shadow s WHERE s.usename = login $$;
REVOKE ALL ON FUNCTION pgbouncer.get_auth(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgbouncer.get_auth(text) TO pgbouncer;

CREATE SCHEMA vault;
GRANT USAGE ON SCHEMA vault TO :"customer" WITH GRANT OPTION;
CREATE TABLE vault.secrets (id uuid PRIMARY KEY, name text, secret text NOT NULL);
GRANT SELECT, DELETE ON vault.secrets TO :"customer" WITH GRANT OPTION;
CREATE VIEW vault.decrypted_secrets AS SELECT id, name, reverse(secret) AS decrypted_secret FROM vault.secrets;
GRANT SELECT, DELETE ON vault.decrypted_secrets TO :"customer" WITH GRANT OPTION;

-- ---- event triggers --------------------------------------------------------------------------------------------------

CREATE FUNCTION extensions.set_graphql_placeholder() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM pg_event_trigger_dropped_objects() WHERE object_identity = 'pg_graphql';
END
$$;
CREATE FUNCTION extensions.grant_pg_graphql_access() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'graphql.resolve';
END
$$;
CREATE FUNCTION extensions.grant_pg_cron_access() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'pg_cron') THEN
        EXECUTE 'GRANT USAGE ON SCHEMA cron TO service_role';
    END IF;
END
$$;
CREATE FUNCTION extensions.grant_pg_net_access() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'pg_net') THEN
        EXECUTE 'GRANT USAGE ON SCHEMA net TO service_role';
    END IF;
END
$$;
CREATE FUNCTION extensions.pgrst_ddl_watch() RETURNS event_trigger LANGUAGE plpgsql
    AS $$ BEGIN NOTIFY pgrst, 'reload schema'; END $$;
CREATE FUNCTION extensions.pgrst_drop_watch() RETURNS event_trigger LANGUAGE plpgsql
    AS $$ BEGIN NOTIFY pgrst, 'reload schema'; END $$;
COMMENT ON FUNCTION extensions.grant_pg_cron_access() IS 'hands pg_cron to those who call the API';
CREATE EVENT TRIGGER issue_graphql_placeholder ON sql_drop WHEN TAG IN ('DROP EXTENSION')
    EXECUTE FUNCTION extensions.set_graphql_placeholder();
CREATE EVENT TRIGGER issue_pg_graphql_access ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION')
    EXECUTE FUNCTION extensions.grant_pg_graphql_access();
CREATE EVENT TRIGGER issue_pg_cron_access ON ddl_command_end WHEN TAG IN ('CREATE EXTENSION')
    EXECUTE FUNCTION extensions.grant_pg_cron_access();
CREATE EVENT TRIGGER issue_pg_net_access ON ddl_command_end WHEN TAG IN ('CREATE EXTENSION')
    EXECUTE FUNCTION extensions.grant_pg_net_access();
CREATE EVENT TRIGGER pgrst_ddl_watch ON ddl_command_end EXECUTE FUNCTION extensions.pgrst_ddl_watch();
CREATE EVENT TRIGGER pgrst_drop_watch ON sql_drop EXECUTE FUNCTION extensions.pgrst_drop_watch();
