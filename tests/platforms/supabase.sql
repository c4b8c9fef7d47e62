-- A cluster as a managed platform hands it out: nobody who logs in is a superuser, and half of what is in the database
-- belongs to the platform. To be run by a superuser, connected to the database `postgres`; the role `customer` exists.

CREATE ROLE supabase_admin SUPERUSER LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS;
CREATE ROLE anon NOLOGIN;
CREATE ROLE authenticated NOLOGIN;
CREATE ROLE service_role NOLOGIN BYPASSRLS;
CREATE ROLE authenticator LOGIN NOINHERIT;
CREATE ROLE dashboard_user NOLOGIN CREATEDB CREATEROLE REPLICATION;
CREATE ROLE pgbouncer LOGIN;
CREATE ROLE supabase_auth_admin LOGIN NOINHERIT CREATEROLE;
CREATE ROLE supabase_storage_admin LOGIN NOINHERIT CREATEROLE;
GRANT anon, authenticated, service_role TO authenticator;
GRANT pg_read_all_data, anon, authenticated, service_role, supabase_auth_admin, supabase_storage_admin TO customer;
ALTER ROLE anon SET statement_timeout = '3s';
ALTER DATABASE postgres OWNER TO customer;
ALTER DATABASE postgres SET "app.settings.jwt_exp" = '3600';

SET SESSION AUTHORIZATION supabase_admin;
GRANT USAGE ON SCHEMA public TO customer, anon, authenticated, service_role;

CREATE SCHEMA extensions AUTHORIZATION customer;
GRANT USAGE ON SCHEMA extensions TO anon, authenticated, service_role, dashboard_user;
CREATE EXTENSION pg_trgm SCHEMA extensions;
REVOKE EXECUTE ON FUNCTION extensions.show_limit() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION extensions.show_limit() TO service_role;

CREATE SCHEMA auth;
GRANT ALL ON SCHEMA auth TO supabase_auth_admin, customer;
GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text UNIQUE, raw_meta jsonb, created_at timestamptz DEFAULT now());
ALTER TABLE auth.users OWNER TO supabase_auth_admin;
ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
COMMENT ON TABLE auth.users IS 'Auth: who may log in';
INSERT INTO auth.users SELECT md5(n::text)::uuid, 'user' || n || '@example.com', jsonb_build_object('n', n), '2026-01-01'
  FROM generate_series(1, 200) n;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
ALTER FUNCTION auth.uid() OWNER TO supabase_auth_admin;

CREATE SCHEMA storage;
GRANT ALL ON SCHEMA storage TO customer, supabase_storage_admin;
GRANT USAGE ON SCHEMA storage TO anon, authenticated, service_role;
CREATE TABLE storage.buckets (id text PRIMARY KEY, name text NOT NULL, owner uuid);
ALTER TABLE storage.buckets OWNER TO supabase_storage_admin;
GRANT ALL ON storage.buckets TO customer, anon, authenticated, service_role;
INSERT INTO storage.buckets VALUES ('avatars', 'avatars', NULL);

CREATE SCHEMA realtime;
CREATE TABLE realtime.subscription (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, entity regclass, at timestamptz);
GRANT SELECT ON realtime.subscription TO customer;
CREATE SCHEMA graphql;
CREATE SCHEMA graphql_public;
GRANT USAGE ON SCHEMA graphql_public TO customer, anon, authenticated, service_role;
CREATE FUNCTION graphql_public.graphql(query text) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('query', query) $$;
CREATE SCHEMA vault;
CREATE TABLE vault.secrets (id uuid PRIMARY KEY, name text, secret text NOT NULL);
REVOKE ALL ON vault.secrets FROM PUBLIC;
GRANT SELECT ON vault.secrets TO customer;

-- Runs with the platform's rights, and only the customer may call it.
CREATE FUNCTION extensions.platform_setting(name text) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = ''
  AS $$ SELECT pg_catalog.current_setting(name, true) $$;
REVOKE ALL ON FUNCTION extensions.platform_setting(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION extensions.platform_setting(text) TO customer, service_role;

CREATE FUNCTION extensions.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE EVENT TRIGGER issue_graphql_placeholder ON sql_drop EXECUTE FUNCTION extensions.on_ddl();
CREATE EVENT TRIGGER issue_pg_cron_access ON ddl_command_end WHEN TAG IN ('CREATE EXTENSION') EXECUTE FUNCTION extensions.on_ddl();
CREATE EVENT TRIGGER issue_pg_graphql_access ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION') EXECUTE FUNCTION extensions.on_ddl();
CREATE EVENT TRIGGER issue_pg_net_access ON ddl_command_end WHEN TAG IN ('CREATE EXTENSION') EXECUTE FUNCTION extensions.on_ddl();
CREATE EVENT TRIGGER pgrst_ddl_watch ON ddl_command_end EXECUTE FUNCTION extensions.on_ddl();
CREATE EVENT TRIGGER pgrst_drop_watch ON sql_drop EXECUTE FUNCTION extensions.on_ddl();
COMMENT ON EVENT TRIGGER pgrst_ddl_watch IS 'Tells the API of changes';

ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO customer, anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO customer, anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO customer, anon, authenticated, service_role;
RESET SESSION AUTHORIZATION;

SET SESSION AUTHORIZATION customer;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;
CREATE PUBLICATION supabase_realtime;
RESET SESSION AUTHORIZATION;
