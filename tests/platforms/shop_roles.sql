-- The groups a customer's application names where no platform brings such. It can run twice.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['shop_visitor', 'shop_member', 'shop_service'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END
$$;
