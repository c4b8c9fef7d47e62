-- What only a superuser's own database has. Run there by the cluster's superuser.

-- Rows of tables an extension owns, which a dump carries without their definition.
SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'walwarden_sample') AS offered \gset
\if :offered
CREATE EXTENSION walwarden_sample;
INSERT INTO walwarden_sample.setting VALUES ('mode', 'strict'), ('path', 'a\b');
INSERT INTO walwarden_sample.rule (pattern) VALUES ('^mine_');
\endif
CREATE FUNCTION shop.note_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE EVENT TRIGGER notes_drops ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION shop.note_drop();
CREATE PUBLICATION whole_schema FOR TABLES IN SCHEMA shop WITH (publish = 'insert');
