-- What a customer of a Supabase-like platform has beside the application: users, files, secrets, and what of its own
-- depends on them. Run by the cluster's superuser in `postgres`, after shop_application.sql.

SET client_min_messages = warning;

SET SESSION AUTHORIZATION supabase_auth_admin;
INSERT INTO auth.users
SELECT md5('user ' || n)::uuid, 'user' || n || '@example.org', '$2a$10$' || md5('password ' || n),
    jsonb_build_object('name', 'User ' || n), timestamptz '2026-01-01 00:00+00' + n * interval '3 hours'
FROM generate_series(1, 150) AS n;
INSERT INTO auth.refresh_tokens (user_id, token)
SELECT md5('user ' || n)::uuid, md5('token ' || n) FROM generate_series(1, 150, 3) AS n;

SET SESSION AUTHORIZATION supabase_storage_admin;
INSERT INTO storage.buckets (id, name) VALUES ('avatars', 'avatars'), ('receipts', 'receipts');
INSERT INTO storage.objects (id, bucket_id, name, owner, metadata)
SELECT md5('object ' || n)::uuid, 'avatars', 'user' || n || '/face.png', md5('user ' || n)::uuid, '{"size": 1234}'
FROM generate_series(1, 40) AS n;

SET SESSION AUTHORIZATION supabase_admin;
INSERT INTO realtime.messages SELECT 'orders', jsonb_build_object('n', n), timestamp '2026-01-01' + n * interval '1 minute'
FROM generate_series(1, 30) AS n;
INSERT INTO realtime.subscription (entity, action) VALUES ('public.orders', 'UPDATE');
INSERT INTO vault.secrets VALUES (md5('secret')::uuid, 'payment key', 'not really a secret');

-- The platform made this for the customer: it stays the superuser's.
CREATE FUNCTION public.user_count() RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$ SELECT count(*) FROM auth.users $$;
REVOKE ALL ON FUNCTION public.user_count() FROM PUBLIC, anon;
CREATE TABLE public.platform_notices (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text);
INSERT INTO public.platform_notices (body) VALUES ('maintenance on Sunday');

SET SESSION AUTHORIZATION :"customer";
-- A user who goes takes the profile along.
ALTER TABLE public.profiles ADD CONSTRAINT profiles_id_fkey FOREIGN KEY (id) REFERENCES auth.users ON DELETE CASCADE;
-- A user who is named here cannot go.
CREATE TABLE public.subscriptions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscriber uuid NOT NULL REFERENCES auth.users,
    plan text NOT NULL
);
INSERT INTO public.subscriptions (subscriber, plan)
SELECT md5('user ' || n)::uuid, 'yearly' FROM generate_series(1, 150, 5) AS n;
ALTER TABLE public.subscriptions ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_subscription ON public.subscriptions FOR SELECT TO authenticated USING (subscriber = auth.uid());
CREATE POLICY own_face ON storage.objects FOR INSERT TO authenticated
    WITH CHECK (bucket_id = 'avatars' AND owner = auth.uid());
CREATE VIEW public.members WITH (security_invoker) AS
    SELECT p.name, u.email FROM public.profiles p JOIN auth.users u ON u.id = p.id;
CREATE FUNCTION public.greet_user() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    INSERT INTO public.profiles (id, name) VALUES (NEW.id, NEW.email);
    RETURN NEW;
END
$$;
CREATE TRIGGER on_user_created AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION public.greet_user();
ALTER PUBLICATION supabase_realtime ADD TABLE public.orders;
CREATE SCHEMA supabase_migrations;
CREATE TABLE supabase_migrations.schema_migrations (version text PRIMARY KEY, statements text[], name text);
INSERT INTO supabase_migrations.schema_migrations VALUES ('20260101000000', ARRAY['CREATE SCHEMA shop'], 'first');
