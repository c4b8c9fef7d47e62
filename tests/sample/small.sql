-- A database with one of everything a dump can contain, small enough for every test. Loads on Postgres 15 to 18, as a
-- superuser, into an empty database, after roles.sql. What only some servers offer stands in DO blocks that look first.
-- Every row is determined: two loads give the same contents.

SET client_min_messages = warning;

CREATE SCHEMA sample AUTHORIZATION sample_owner;
CREATE SCHEMA "Odd ""schema"" ü" AUTHORIZATION sample_owner;
CREATE SCHEMA published AUTHORIZATION sample_owner;
CREATE SCHEMA extensions;
COMMENT ON SCHEMA sample IS 'What a real application would have:
a comment of two lines, with ''quotes'', a \ and a tab	.';
GRANT USAGE ON SCHEMA sample TO sample_reader;
GRANT USAGE ON SCHEMA extensions TO PUBLIC;

-- ---- extensions: those this server offers ----------------------------------------------------------------------------

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['citext', 'hstore', 'pg_trgm', 'pgcrypto', 'ltree', 'vector'] LOOP
        IF EXISTS (SELECT FROM pg_available_extensions WHERE name = wanted) THEN
            EXECUTE format('CREATE EXTENSION %I SCHEMA extensions', wanted);
        END IF;
    END LOOP;

    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citext') THEN
        CREATE TABLE sample.uses_citext (email extensions.citext PRIMARY KEY);
        INSERT INTO sample.uses_citext VALUES ('Ada@example.org'), ('BOB@example.org');
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'hstore') THEN
        CREATE TABLE sample.uses_hstore (id integer, attributes extensions.hstore);
        INSERT INTO sample.uses_hstore VALUES (1, 'a=>1, "b c"=>NULL'), (2, '');
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
        CREATE TABLE sample.uses_trigrams (body text);
        INSERT INTO sample.uses_trigrams VALUES ('trigram'), ('diagram');
        CREATE INDEX uses_trigrams_body ON sample.uses_trigrams USING gin (body extensions.gin_trgm_ops);
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
        CREATE TABLE sample.uses_vector (id integer PRIMARY KEY, embedding extensions.vector(3));
        INSERT INTO sample.uses_vector VALUES (1, '[1,2.5,-3]'), (2, '[0,0,1]');
    END IF;
    -- Configuration tables: rows of tables an extension owns, which a dump carries without their definition.
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'walwarden_sample') THEN
        CREATE EXTENSION walwarden_sample;
        INSERT INTO walwarden_sample.setting VALUES ('mode', 'strict'), ('path', 'a\b');
        INSERT INTO walwarden_sample.rule (pattern) VALUES ('^mine_'), ('^yours_');
    END IF;
END
$$;

-- ---- types -----------------------------------------------------------------------------------------------------------

SET ROLE sample_owner;
SET search_path = sample, pg_catalog;

CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy', 'it''s "fine"', 'größer');
ALTER TYPE mood ADD VALUE 'so-so' BEFORE 'ok';
COMMENT ON TYPE mood IS 'an enumeration whose labels were not made in their order';
CREATE TYPE address AS (street text, number integer, zip varchar(10), notes text[]);
CREATE TYPE person AS (name text, home address, "Odd attribute" numeric(10, 2));
CREATE DOMAIN positive AS integer DEFAULT 1 CONSTRAINT positive_check CHECK (VALUE > 0);
CREATE DOMAIN email AS text COLLATE "C" NOT NULL CHECK (VALUE ~ '^[^@]+@[^@]+$');
CREATE DOMAIN positives AS integer[] CHECK (array_position(VALUE, NULL) IS NULL);
CREATE DOMAIN careful AS integer;
ALTER DOMAIN careful ADD CONSTRAINT careful_check CHECK (VALUE <> 13) NOT VALID;
CREATE FUNCTION float_difference(a double precision, b double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN a - b;
CREATE TYPE float_range AS RANGE (subtype = double precision, subtype_diff = float_difference, multirange_type_name = float_multirange);
GRANT USAGE ON TYPE address TO sample_reader;
REVOKE USAGE ON TYPE mood FROM PUBLIC;
GRANT USAGE ON TYPE mood TO sample_app;

-- ---- ordinary tables -------------------------------------------------------------------------------------------------

CREATE SEQUENCE unowned_seq INCREMENT 7 START 100 CACHE 5;
CREATE SEQUENCE descending_seq AS integer INCREMENT -3 MAXVALUE -1 MINVALUE -3000 START -1 CYCLE;
CREATE SEQUENCE never_called_seq AS smallint START 42;
CREATE SEQUENCE bigint_seq START 9223372036854775000;
SELECT nextval('unowned_seq'), nextval('descending_seq'), nextval('descending_seq'), nextval('bigint_seq');
SELECT setval('unowned_seq', 702, false);
COMMENT ON SEQUENCE never_called_seq IS 'its first value will be 42';
GRANT USAGE, SELECT ON SEQUENCE unowned_seq TO sample_app;

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY (START 1000 INCREMENT 10) PRIMARY KEY,
    name text NOT NULL,
    email email,
    feeling mood DEFAULT 'ok',
    home address,
    score positive,
    tags text[] DEFAULT '{}',
    profile jsonb,
    photo bytea,
    joined timestamptz NOT NULL DEFAULT '2020-01-01 00:00:00+00',
    name_length integer GENERATED ALWAYS AS (length(name)) STORED,
    greeting text GENERATED ALWAYS AS ('Hello ' || name) STORED,
    best_friend bigint REFERENCES customers (id) DEFERRABLE INITIALLY DEFERRED,
    favourite_order bigint,
    CONSTRAINT "name isn't empty" CHECK (name <> '')
);
CREATE TABLE orders (
    id bigserial PRIMARY KEY,
    customer bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
    placed date NOT NULL,
    period daterange,
    amount money,
    note text,
    CONSTRAINT orders_period_excl EXCLUDE USING gist (period WITH &&)
);
-- A cycle: no order of loading satisfies both.
ALTER TABLE customers ADD CONSTRAINT customers_favourite_order_fkey FOREIGN KEY (favourite_order) REFERENCES orders (id)
    ON UPDATE CASCADE ON DELETE SET NULL;

INSERT INTO customers (name, email, feeling, home, score, tags, profile, photo, joined)
SELECT
    CASE n % 5 WHEN 0 THEN 'Zoë' WHEN 1 THEN 'O''Brien' WHEN 2 THEN 'back\slash' WHEN 3 THEN '名前' ELSE 'Tab	Tab' END || ' ' || n,
    'customer' || n || '@example.org',
    (enum_range(NULL::mood))[1 + n % 6],
    ROW('Main "Street", ' || n, n, NULL, ARRAY['a,b', NULL, 'c"d', ''])::address,
    n,
    CASE WHEN n % 4 = 0 THEN NULL ELSE ARRAY['tag ' || n, 'NULL', ''] END,
    jsonb_build_object('n', n, 'nested', jsonb_build_array(1, NULL, true, 'é"\'), 'big', 12345678901234567890.123),
    decode(repeat(lpad(to_hex(n % 256), 2, '0'), n % 40), 'hex'),
    timestamptz '2020-01-01 00:00:00+00' + n * interval '7 hours 13 minutes 0.123457 seconds'
FROM generate_series(1, 500) AS n;
UPDATE customers SET best_friend = 1000 + (id * 7 % 5000) / 10 * 10 WHERE id % 20 = 0;
INSERT INTO orders (customer, placed, period, amount, note)
SELECT 1000 + 10 * (n * 37 % 500), date '2021-01-01' + n, daterange(date '2021-01-01' + 2 * n, date '2021-01-02' + 2 * n), (n * 1.37)::numeric::money,
    CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'order ' || n END
FROM generate_series(1, 1500) AS n;
UPDATE customers SET favourite_order = id % 1500 + 1 WHERE id % 30 = 0;

CREATE UNIQUE INDEX customers_email_lower ON customers (lower(email::text)) INCLUDE (name);
CREATE INDEX customers_happy ON customers (joined DESC NULLS LAST) WHERE feeling = 'happy';
CREATE INDEX customers_tags ON customers USING gin (tags);
CREATE INDEX customers_profile ON customers USING gin (profile jsonb_path_ops);
CREATE INDEX customers_joined ON customers USING brin (joined) WITH (pages_per_range = 4);
CREATE INDEX customers_name ON customers USING hash (name);
CREATE INDEX customers_name_sp ON customers USING spgist (name);
CREATE UNIQUE INDEX orders_note ON orders (customer, id, note) NULLS NOT DISTINCT;
ALTER TABLE orders CLUSTER ON orders_pkey;
ALTER TABLE customers ALTER COLUMN name SET STATISTICS 500;
ALTER TABLE customers ALTER COLUMN photo SET STORAGE EXTERNAL;
ALTER TABLE customers ALTER COLUMN profile SET COMPRESSION pglz;
ALTER TABLE orders SET (fillfactor = 70, autovacuum_enabled = false);
ALTER TABLE orders REPLICA IDENTITY FULL;
CREATE STATISTICS customers_statistics (dependencies, ndistinct, mcv) ON feeling, score FROM customers;
CREATE STATISTICS customers_expression ON lower(name), (score % 10) FROM customers;
COMMENT ON TABLE customers IS 'those who order';
COMMENT ON COLUMN customers.photo IS 'bytes; "escape" or hex when shown';
COMMENT ON CONSTRAINT "name isn't empty" ON customers IS 'a constraint''s comment';
COMMENT ON INDEX customers_tags IS 'an index''s comment';
COMMENT ON STATISTICS customers_statistics IS 'a statistics object''s comment';

CREATE TABLE every_type (
    id serial PRIMARY KEY,
    a_smallint smallint, a_bigint bigint, a_numeric numeric, a_real real, a_double double precision,
    a_money money, a_char char(5), a_quoted_char "char", a_name name, a_bit bit(5), a_varbit bit varying,
    a_date date, a_time time, a_timetz timetz, a_timestamp timestamp, a_timestamptz timestamptz(3), an_interval interval,
    a_uuid uuid, an_inet inet, a_cidr cidr, a_macaddr macaddr, a_macaddr8 macaddr8, a_json json, a_jsonb jsonb, a_jsonpath jsonpath,
    a_tsvector tsvector, a_tsquery tsquery, a_point point, a_line line, a_lseg lseg, a_box box, a_path path, a_polygon polygon, a_circle circle,
    an_lsn pg_lsn, a_regclass regclass, a_regtype regtype, an_oid oid,
    a_range float_range, a_multirange float_multirange, a_tstzrange tstzrange, some_moods mood[], a_person person, some_persons person[],
    some_positives positives, a_matrix integer[][], a_shifted_array text[], a_boolean boolean, a_bytea bytea, an_xml xml
);
INSERT INTO every_type DEFAULT VALUES;
INSERT INTO every_type (a_smallint, a_bigint, a_numeric, a_real, a_double, a_date, a_timestamp, a_timestamptz, a_money) VALUES
    (-32768, -9223372036854775808, 'NaN', 'NaN', 'NaN', '0044-03-15 BC', '4713-01-01 00:00:00 BC', 'infinity', '-92233720368547758.08'),
    (32767, 9223372036854775807, 'Infinity', 'Infinity', '-Infinity', '-infinity', 'infinity', '-infinity', '92233720368547758.07'),
    (0, 0, '-0.000000000000000000000000000000000001', '1e-45', '4.9406564584124654e-324', 'infinity', '294276-12-31 23:59:59.999999', '2021-03-28 02:30:00 Europe/Berlin', 0),
    (1, 1, repeat('9', 1000)::numeric, '3.4028235e38', '1.7976931348623157e308', '5874897-12-31', '1999-12-31 24:00:00', '2000-01-01 00:00:00.9996+05:53', 1),
    (2, 2, 1.10, '-0', '0.1', '2026-02-01', '2026-02-01 03:04:05.000001', '2026-02-01 03:04:05.001 Asia/Kolkata', 2);
INSERT INTO every_type (a_char, a_quoted_char, a_name, a_bit, a_varbit, a_time, a_timetz, an_interval, a_uuid, an_inet, a_cidr, a_macaddr, a_macaddr8,
    a_json, a_jsonb, a_jsonpath, a_tsvector, a_tsquery, a_point, a_line, a_lseg, a_box, a_path, a_polygon, a_circle, an_lsn, a_regclass, a_regtype, an_oid,
    a_range, a_multirange, a_tstzrange, some_moods, a_person, some_persons, some_positives, a_matrix, a_shifted_array, a_boolean, a_bytea) VALUES
    ('ab', 'x', 'a name', B'10101', B'', '24:00:00', '12:34:56.789+05:45', '-1 year 2 months -3 days 04:05:06.000007',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '192.0.2.1/24', '2001:db8::/32', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
    '{"a" : 1, "a":2 ,"text":"\u00e9\n"}', '{"b": [1.0, 1e3, null], "a": "\\"}', '$.a[*] ? (@ > 1)', '''fat'':2A ''it''''s'':3', 'fat & (rat | !cat:*)',
    '(1.5,-0)', '{1,-1,0}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,2),(3,4)]', '((0,0),(1,2),(3,4))', '<(1,1),2.5>',
    'FF/FFFFFFFF', 'sample.customers', 'sample.mood[]', 4294967295,
    '[1.5,Infinity)', '{[1,2),(3,4]}', '[2020-01-01 00:00+00,)', '{sad,"it''s \"fine\"",NULL}',
    ROW('n', ROW('s', 1, 'z', '{}')::address, 1.5)::person, ARRAY[ROW(NULL, NULL, NULL)::person, ROW('a"b\c,d', NULL, -1)::person],
    '{1,2,3}', '{{1,2},{3,NULL}}', '[-1:1]={a,NULL,"c d"}', true, '\x000102095c0a0dff27225c5c');
DO $$
BEGIN
    INSERT INTO sample.every_type (an_xml) VALUES ('<a b="c">é &amp; <![CDATA[x]]></a>');
EXCEPTION WHEN feature_not_supported THEN
    NULL; -- a server built without libxml
END
$$;

CREATE TABLE hard_rows (id integer PRIMARY KEY, body text, bytes bytea);
INSERT INTO hard_rows VALUES
    (1, NULL, NULL), (2, '', ''), (3, '\N', '\x5c4e'), (4, '\.', '\x5c2e'), (5, E'\\.\n\\.\n', NULL),
    (6, E'tab\there', NULL), (7, E'line\nfeed', NULL), (8, E'carriage\rreturn\r\n', NULL), (9, E'back\\slash \\\\ \\t \\x41', NULL),
    (10, E'\b\f\v\x01\x7f', NULL), (11, 'naïve 🦀 שלום ﷽ e' || U&'\0301' || U&'\FEFF', NULL), (12, ' leading and trailing ', NULL),
    (13, 'NULL', NULL), (14, '"quoted","csv"', NULL), (15, '$$ $body$ '' ; -- /* */', NULL), (16, U&'\+10FFFF\0085\2028\00A0', NULL),
    (17, repeat(E'\n', 1000), NULL), (18, repeat('\', 1000), NULL);
INSERT INTO hard_rows SELECT 100, NULL, string_agg(decode(lpad(to_hex(n), 2, '0'), 'hex'), '' ORDER BY n) FROM generate_series(0, 255) AS n;
-- One row of 3 MB that compresses badly, one of 2 MB that does not need to, one of 1 MB of bytes.
INSERT INTO hard_rows SELECT 101, string_agg(md5(n::text), '' ORDER BY n), NULL FROM generate_series(1, 98304) AS n;
INSERT INTO hard_rows SELECT 102, repeat(E'all the same\n', 160000), NULL;
INSERT INTO hard_rows SELECT 103, NULL, string_agg(decode(md5(n::text), 'hex'), '' ORDER BY n) FROM generate_series(1, 65536) AS n;

CREATE TABLE empty_table (id integer, body text DEFAULT 'nothing yet');
CREATE TABLE zero_columns ();
INSERT INTO zero_columns DEFAULT VALUES;
INSERT INTO zero_columns DEFAULT VALUES;
INSERT INTO zero_columns DEFAULT VALUES;
CREATE TABLE zero_columns_no_rows ();
CREATE TABLE only_generated (answer integer GENERATED ALWAYS AS (6 * 7) STORED, word text GENERATED ALWAYS AS ('w' || 'w') STORED);
INSERT INTO only_generated DEFAULT VALUES;
INSERT INTO only_generated DEFAULT VALUES;
CREATE TABLE dropped_columns (a integer, gone text, b integer, gone_too numeric, c text);
INSERT INTO dropped_columns SELECT n, 'x', n * 2, n, 'c' || n FROM generate_series(1, 10) AS n;
ALTER TABLE dropped_columns DROP COLUMN gone, DROP COLUMN gone_too;
ALTER TABLE dropped_columns ADD COLUMN d integer DEFAULT 7;
CREATE TABLE equal_rows (a integer, b text);
INSERT INTO equal_rows SELECT 1, 'same' FROM generate_series(1, 100);
INSERT INTO equal_rows VALUES (1, NULL), (1, NULL), (NULL, NULL);
DO $$
BEGIN
    EXECUTE 'CREATE TABLE sample.wide (id integer PRIMARY KEY, '
        || (SELECT string_agg(format('column_%s %s', n, CASE n % 4 WHEN 0 THEN 'integer' WHEN 1 THEN 'text' WHEN 2 THEN 'numeric(12,3)' ELSE 'timestamptz' END), ', ' ORDER BY n)
            FROM generate_series(1, 200) AS n) || ')';
    EXECUTE 'INSERT INTO sample.wide SELECT r, '
        || (SELECT string_agg(CASE n % 4 WHEN 0 THEN 'r * ' || n WHEN 1 THEN 'CASE WHEN r % 3 = 0 THEN NULL ELSE ''v'' || r END' WHEN 2 THEN 'r / 7.0' ELSE 'to_timestamp(r)' END, ', ' ORDER BY n)
            FROM generate_series(1, 200) AS n) || ' FROM generate_series(1, 50) AS r';
    IF current_setting('server_version_num')::integer >= 180000 THEN
        EXECUTE 'CREATE TABLE sample.virtual_columns (a integer, twice integer GENERATED ALWAYS AS (a * 2) VIRTUAL, thrice integer GENERATED ALWAYS AS (a * 3) STORED)';
        EXECUTE 'INSERT INTO sample.virtual_columns (a) SELECT generate_series(1, 10)';
        EXECUTE 'CREATE TABLE sample.only_virtual (one integer GENERATED ALWAYS AS (1) VIRTUAL)';
        EXECUTE 'INSERT INTO sample.only_virtual DEFAULT VALUES';
        EXECUTE 'CREATE TABLE sample.later_not_null (a integer)';
        EXECUTE 'ALTER TABLE sample.later_not_null ADD CONSTRAINT a_is_there NOT NULL a NOT VALID';
        EXECUTE 'CREATE TABLE sample.not_enforced (a integer CONSTRAINT promise CHECK (a > 0) NOT ENFORCED)';
        EXECUTE 'INSERT INTO sample.not_enforced VALUES (-1)';
    END IF;
END
$$;
CREATE UNLOGGED TABLE unlogged_table (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, body text);
INSERT INTO unlogged_table (body) SELECT 'row ' || n FROM generate_series(1, 20) AS n;
CREATE TABLE typed_table OF address (street WITH OPTIONS NOT NULL);
INSERT INTO typed_table VALUES ('a street', 1, NULL, NULL);
CREATE TABLE old_data (id integer, parent integer);
INSERT INTO old_data VALUES (1, NULL), (2, 99);
ALTER TABLE old_data ADD CONSTRAINT old_data_check CHECK (id > 1) NOT VALID;
ALTER TABLE empty_table ADD PRIMARY KEY (id);
ALTER TABLE old_data ADD CONSTRAINT old_data_parent_fkey FOREIGN KEY (parent) REFERENCES empty_table (id) NOT VALID;

CREATE TABLE base (id integer PRIMARY KEY, body text CHECK (body <> 'x'));
CREATE TABLE derived (extra integer DEFAULT 5) INHERITS (base);
CREATE TABLE derived_twice (body text DEFAULT 'own', extra integer, more boolean) INHERITS (derived);
INSERT INTO base VALUES (1, 'parent');
INSERT INTO derived VALUES (2, 'child', 6), (1, 'same id as the parent''s', 7);
INSERT INTO derived_twice VALUES (3, 'grandchild', 8, true);

-- ---- partitions ------------------------------------------------------------------------------------------------------

CREATE TABLE by_list (region text NOT NULL, id integer NOT NULL, body text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE by_list_north PARTITION OF by_list FOR VALUES IN ('n', 'ne', 'nw');
CREATE TABLE by_list_rest PARTITION OF by_list DEFAULT;
INSERT INTO by_list SELECT (ARRAY['n', 'ne', 's', 'e', 'w'])[1 + n % 5], n, 'row ' || n FROM generate_series(1, 200) AS n;

CREATE TABLE by_range (at timestamptz NOT NULL, id bigint GENERATED BY DEFAULT AS IDENTITY, body jsonb) PARTITION BY RANGE (at);
CREATE TABLE by_range_2024 PARTITION OF by_range FOR VALUES FROM (MINVALUE) TO ('2025-01-01 00:00+00');
CREATE TABLE by_range_2025 PARTITION OF by_range FOR VALUES FROM ('2025-01-01 00:00+00') TO ('2026-01-01 00:00+00') PARTITION BY LIST ((id % 2));
CREATE TABLE by_range_2025_even PARTITION OF by_range_2025 FOR VALUES IN (0);
CREATE TABLE by_range_2025_odd PARTITION OF by_range_2025 FOR VALUES IN (1);
CREATE TABLE by_range_later PARTITION OF by_range FOR VALUES FROM ('2026-01-01 00:00+00') TO (MAXVALUE);
CREATE INDEX by_range_at ON by_range (at);
INSERT INTO by_range (at, body) SELECT timestamptz '2024-06-01 00:00+00' + n * interval '19 hours', jsonb_build_object('n', n) FROM generate_series(1, 1000) AS n;

-- Hashes of enum values depend on their OIDs, so pg_dump loads such rows through the root.
CREATE TABLE by_hash_of_enum (feeling mood NOT NULL, id integer, body text) PARTITION BY HASH (feeling);
CREATE TABLE by_hash_of_enum_0 PARTITION OF by_hash_of_enum FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE by_hash_of_enum_1 PARTITION OF by_hash_of_enum FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE by_hash_of_enum_2 PARTITION OF by_hash_of_enum FOR VALUES WITH (MODULUS 3, REMAINDER 2);
INSERT INTO by_hash_of_enum SELECT (enum_range(NULL::mood))[1 + n % 6], n, 'row ' || n FROM generate_series(1, 300) AS n;
CREATE TABLE by_hash (id integer NOT NULL, body text) PARTITION BY HASH (id);
CREATE TABLE by_hash_0 PARTITION OF by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE by_hash_1 (body text, id integer NOT NULL);
ALTER TABLE by_hash ATTACH PARTITION by_hash_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO by_hash SELECT n, 'row ' || n FROM generate_series(1, 100) AS n;
CREATE TABLE partitioned_without_partitions (a integer) PARTITION BY RANGE (a);

-- ---- names -----------------------------------------------------------------------------------------------------------

CREATE TABLE "Odd ""schema"" ü"."table with spaces, ""quotes"", a \ and 'apostrophes'" ("select" integer, "Mixed Case" text, "a""b" text, "日本語" text);
INSERT INTO "Odd ""schema"" ü"."table with spaces, ""quotes"", a \ and 'apostrophes'" VALUES (1, 'x', 'y', 'z'), (2, NULL, '', '\');
CREATE TABLE "Odd ""schema"" ü"."line
break	and tab" (a integer);
INSERT INTO "Odd ""schema"" ü"."line
break	and tab" VALUES (1);
CREATE TABLE exactly_63_bytes_long_name_of_a_table_that_fills_the_identifier (exactly_63_bytes_long_name_of_a_column_which_fills_identifiers_ integer PRIMARY KEY);
INSERT INTO exactly_63_bytes_long_name_of_a_table_that_fills_the_identifier VALUES (63);
CREATE TABLE "ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü6" ("%s %n {} $1 :var" integer);
INSERT INTO "ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü63ü6" VALUES (1);
CREATE TABLE "--" ("/* */" integer, ";" integer);
INSERT INTO "--" VALUES (1, 2);
CREATE SEQUENCE "Odd ""schema"" ü"."seq ""with"" spaces";
SELECT nextval('"Odd ""schema"" ü"."seq ""with"" spaces"');

-- ---- functions, triggers, rules, views -------------------------------------------------------------------------------

CREATE FUNCTION add(a integer, b integer DEFAULT 10) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 5 RETURN a + b;
CREATE FUNCTION add(a text, VARIADIC rest text[]) RETURNS text LANGUAGE sql STABLE AS $body$ SELECT a || array_to_string(rest, '$$') $body$;
CREATE FUNCTION customers_of(feeling sample.mood, OUT id bigint, OUT name text) RETURNS SETOF record
    LANGUAGE plpgsql STABLE ROWS 50 AS $_$
BEGIN
    RETURN QUERY EXECUTE $q$SELECT c.id, c.name FROM sample.customers c WHERE c.feeling = $1 -- a comment; 'quotes' \ $q$ USING customers_of.feeling;
END
$_$;
CREATE FUNCTION count_customers() RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM sample.customers; END;
CREATE FUNCTION privileged() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = sample, pg_temp AS 'BEGIN RETURN current_user; END';
REVOKE EXECUTE ON FUNCTION privileged() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION privileged() TO sample_app WITH GRANT OPTION;
CREATE PROCEDURE archive(INOUT days integer) LANGUAGE plpgsql AS $$ BEGIN days := days + 1; COMMIT; END $$;
COMMENT ON FUNCTION add(integer, integer) IS 'adds';
COMMENT ON PROCEDURE archive(integer) IS 'does nothing much';

CREATE TABLE changes (id bigint GENERATED ALWAYS AS IDENTITY, what text, at timestamptz DEFAULT '2020-01-01 00:00+00');
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sample.changes (what) VALUES (TG_OP || ' ' || TG_TABLE_NAME || coalesce(' ' || TG_ARGV[0], ''));
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE FUNCTION note_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO sample.changes (what) SELECT 'statement ' || count(*) FROM fresh;
    RETURN NULL;
END
$$;
CREATE TRIGGER orders_changed BEFORE UPDATE OF note ON orders FOR EACH ROW WHEN (NEW.note IS DISTINCT FROM OLD.note) EXECUTE FUNCTION note_change('it''s');
CREATE TRIGGER orders_inserted AFTER INSERT ON orders REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION note_statement();
CREATE CONSTRAINT TRIGGER orders_checked AFTER DELETE ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER by_list_changed AFTER UPDATE ON by_list FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER base_changed AFTER INSERT ON base FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER derived_changed AFTER INSERT ON derived FOR EACH ROW EXECUTE FUNCTION note_change();
ALTER TABLE base DISABLE TRIGGER base_changed;
ALTER TABLE derived ENABLE ALWAYS TRIGGER derived_changed;
COMMENT ON TRIGGER orders_changed ON orders IS 'a trigger''s comment';
UPDATE orders SET note = 'changed' WHERE id <= 3;

CREATE VIEW happy_customers WITH (security_barrier) AS SELECT id, name, email FROM customers WHERE feeling = 'happy' WITH LOCAL CHECK OPTION;
CREATE VIEW invoker_view WITH (security_invoker) AS SELECT * FROM orders;
CREATE RECURSIVE VIEW numbers (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM numbers WHERE n < 5;
-- Depends on a primary key, which is made after the data: pg_dump makes a stand-in first.
CREATE VIEW spending AS SELECT c.id, c.name, sum(o.amount) AS total FROM customers c LEFT JOIN orders o ON o.customer = c.id GROUP BY c.id;
CREATE VIEW "view with ""quotes""" AS SELECT 'it''s' AS "a column", E'\\' AS b;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER spending_refuses INSTEAD OF INSERT ON spending FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE MATERIALIZED VIEW spending_summary AS SELECT count(*) AS customers, sum(total) AS total FROM spending;
CREATE MATERIALIZED VIEW spending_again AS SELECT customers * 2 AS twice FROM spending_summary;
CREATE MATERIALIZED VIEW not_yet AS SELECT id FROM customers WITH NO DATA;
CREATE UNIQUE INDEX spending_summary_customers ON spending_summary (customers);
COMMENT ON VIEW spending IS 'a view''s comment';
COMMENT ON MATERIALIZED VIEW spending_summary IS 'a materialized view''s comment';
CREATE RULE changes_are_kept AS ON DELETE TO changes DO INSTEAD NOTHING;
CREATE RULE empty_is_noted AS ON INSERT TO empty_table DO ALSO INSERT INTO sample.changes (what) VALUES ('a rule');
COMMENT ON RULE changes_are_kept ON changes IS 'a rule''s comment';

CREATE AGGREGATE product(integer) (SFUNC = int4mul, STYPE = integer, INITCOND = '1', PARALLEL = SAFE);

-- ---- operators, casts, text search, collations -----------------------------------------------------------------------

CREATE FUNCTION address_equal(address, address) RETURNS boolean LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1.street = $2.street';
CREATE OPERATOR === (LEFTARG = address, RIGHTARG = address, FUNCTION = address_equal, COMMUTATOR = ===, RESTRICT = eqsel, JOIN = eqjoinsel);
COMMENT ON OPERATOR === (address, address) IS 'an operator''s comment';
CREATE FUNCTION address_text(address) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1.street || '' '' || $1.number';
CREATE CAST (address AS text) WITH FUNCTION address_text(address) AS ASSIGNMENT;
CREATE COLLATION c_again FROM "C";
CREATE TABLE collated (body text COLLATE c_again);
CREATE INDEX collated_body ON collated (body COLLATE "C" text_pattern_ops);
INSERT INTO collated VALUES ('b'), ('B'), ('ä');
CREATE CONVERSION latin1_again FOR 'LATIN1' TO 'UTF8' FROM pg_catalog.iso8859_1_to_utf8;
CREATE TEXT SEARCH DICTIONARY plain_words (TEMPLATE = pg_catalog.simple, STOPWORDS = english);
CREATE TEXT SEARCH CONFIGURATION plain_english (COPY = pg_catalog.english);
ALTER TEXT SEARCH CONFIGURATION plain_english ALTER MAPPING FOR asciiword, word WITH plain_words, english_stem;
CREATE TABLE searched (body text, words tsvector GENERATED ALWAYS AS (to_tsvector('sample.plain_english', body)) STORED);
CREATE INDEX searched_words ON searched USING gin (words);
INSERT INTO searched (body) VALUES ('The quick brown foxes jumped'), ('over lazy dogs');

-- ---- access ----------------------------------------------------------------------------------------------------------

GRANT SELECT ON customers, orders, spending TO sample_reader;
GRANT SELECT (id, name), UPDATE (name) ON customers TO sample_app;
GRANT INSERT, UPDATE, DELETE ON orders TO sample_app WITH GRANT OPTION;
GRANT SELECT ON empty_table TO PUBLIC;
REVOKE UPDATE, TRUNCATE ON changes FROM sample_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE sample_owner IN SCHEMA sample GRANT SELECT ON TABLES TO sample_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE sample_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE sample_owner IN SCHEMA sample GRANT USAGE ON SEQUENCES TO sample_app;

ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers_see_happy ON customers FOR SELECT TO sample_reader USING (feeling = 'happy');
CREATE POLICY app_writes_own ON customers AS RESTRICTIVE FOR UPDATE TO sample_app, sample_reader USING (name <> current_user) WITH CHECK (true);
CREATE TABLE forced (id integer, owner name DEFAULT current_user);
INSERT INTO forced VALUES (1), (2), (3);
ALTER TABLE forced ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY everyone ON forced USING (owner = current_user);
COMMENT ON POLICY everyone ON forced IS 'a policy''s comment';

CREATE TABLE published.events (id integer PRIMARY KEY, kind text NOT NULL, body text);
CREATE TABLE published.other (id integer PRIMARY KEY);
INSERT INTO published.events SELECT n, CASE n % 2 WHEN 0 THEN 'even' ELSE 'odd' END, md5(n::text) FROM generate_series(1, 50) AS n;

-- ---- large objects ---------------------------------------------------------------------------------------------------

SELECT lo_from_bytea(900001, string_agg(decode(md5('lo' || n), 'hex'), '' ORDER BY n)) FROM generate_series(1, 19200) AS n;
SELECT lo_from_bytea(900002, convert_to(E'small \\\\ object\\n', 'UTF8'));
SELECT lo_from_bytea(900003, '');
SELECT lo_from_bytea(3000000001, decode(repeat('00ff', 3000), 'hex'));
COMMENT ON LARGE OBJECT 900001 IS 'three hundred kilobytes';
GRANT SELECT ON LARGE OBJECT 900001 TO sample_reader;
GRANT SELECT, UPDATE ON LARGE OBJECT 900002 TO sample_app WITH GRANT OPTION;

-- ---- what only a superuser makes -------------------------------------------------------------------------------------

RESET ROLE;

SELECT lo_from_bytea(900004, 'owned by somebody else');

-- A base type, by the functions of integers.
CREATE TYPE cents;
CREATE FUNCTION cents_in(cstring) RETURNS cents LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int4in';
CREATE FUNCTION cents_out(cents) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int4out';
CREATE TYPE cents (INPUT = cents_in, OUTPUT = cents_out, LIKE = integer, CATEGORY = 'N');
CREATE FUNCTION cents_compare(cents, cents) RETURNS integer LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'btint4cmp';
CREATE FUNCTION cents_less(cents, cents) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int4lt';
CREATE FUNCTION cents_equal(cents, cents) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int4eq';
CREATE OPERATOR < (LEFTARG = cents, RIGHTARG = cents, FUNCTION = cents_less);
CREATE OPERATOR = (LEFTARG = cents, RIGHTARG = cents, FUNCTION = cents_equal, COMMUTATOR = =);
CREATE OPERATOR FAMILY cents_family USING btree;
CREATE OPERATOR CLASS cents_class DEFAULT FOR TYPE cents USING btree FAMILY cents_family AS
    OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 cents_compare(cents, cents);
CREATE CAST (integer AS cents) WITHOUT FUNCTION AS ASSIGNMENT;
CREATE TABLE prices (amount cents);
INSERT INTO prices SELECT n::cents FROM generate_series(1, 10) AS n;
CREATE INDEX prices_amount ON prices (amount);
ALTER TABLE prices OWNER TO sample_owner;

CREATE TEXT SEARCH PARSER parser_again (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype, HEADLINE = prsd_headline);
CREATE TEXT SEARCH TEMPLATE template_again (INIT = dsimple_init, LEXIZE = dsimple_lexize);
CREATE ACCESS METHOD heap_again TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE on_other_method (id integer) USING heap_again;
INSERT INTO on_other_method VALUES (1), (2);

-- Foreign tables hold no data here, and their wrapper cannot be read from: a dump has their definitions only.
CREATE FOREIGN DATA WRAPPER sample_wrapper OPTIONS (debug 'true');
CREATE SERVER sample_server TYPE 'none' VERSION '1' FOREIGN DATA WRAPPER sample_wrapper OPTIONS (host 'db.example.org');
CREATE USER MAPPING FOR sample_app SERVER sample_server OPTIONS (user 'me', password 'not a secret');
CREATE FOREIGN TABLE elsewhere (id integer OPTIONS (column_name 'ID'), body text) SERVER sample_server OPTIONS (table_name 'elsewhere');
GRANT USAGE ON FOREIGN SERVER sample_server TO sample_app;
COMMENT ON FOREIGN TABLE elsewhere IS 'a foreign table''s comment';

-- None publishes updates of tables without a key: those would refuse to be updated.
CREATE PUBLICATION everything FOR ALL TABLES WITH (publish = 'insert');
CREATE PUBLICATION part FOR TABLE published.events (id, kind) WHERE (kind = 'even' AND id > 0) WITH (publish = 'insert', publish_via_partition_root = true);
CREATE PUBLICATION a_schema FOR TABLES IN SCHEMA published WITH (publish = 'insert, truncate');
COMMENT ON PUBLICATION part IS 'a publication''s comment';

CREATE FUNCTION public.note_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE EVENT TRIGGER notes_drops ON sql_drop WHEN TAG IN ('DROP TABLE', 'DROP VIEW') EXECUTE FUNCTION public.note_drop();
COMMENT ON EVENT TRIGGER notes_drops IS 'an event trigger''s comment';

CREATE TABLE public.in_public (id integer PRIMARY KEY, body text);
INSERT INTO public.in_public VALUES (1, 'one');
REVOKE USAGE ON SCHEMA public FROM PUBLIC;
GRANT CREATE, USAGE ON SCHEMA public TO sample_owner;

-- Planner statistics: 18 can dump them.
ANALYZE;

-- Settings that change how values are written as text, and which pg_dump only partly overrides.
DO $$
DECLARE
    setting text;
BEGIN
    FOREACH setting IN ARRAY ARRAY[
        'DateStyle = ''SQL, DMY''', 'IntervalStyle = ''sql_standard''', 'TimeZone = ''Asia/Kolkata''', 'bytea_output = ''escape''',
        'extra_float_digits = 0', 'xmlbinary = ''hex''', 'lc_monetary = ''C''', 'search_path = ''sample'', ''public''']
    LOOP
        EXECUTE format('ALTER DATABASE %I SET %s', current_database(), setting);
    END LOOP;
    EXECUTE format('ALTER ROLE sample_app IN DATABASE %I SET statement_timeout = ''5min''', current_database());
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO sample_reader', current_database());
    EXECUTE format('COMMENT ON DATABASE %I IS ''a database''''s comment''', current_database());
END
$$;
