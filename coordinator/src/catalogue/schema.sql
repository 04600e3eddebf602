-- Schema howdah: the stored catalogue of one group, in each of its databases. Run once, by a superuser, in one
-- transaction (bootstrap.rs). Every function that changes anything belongs to that superuser (SECURITY DEFINER),
-- so that a user needs no right here to create a table of his own.

CREATE SCHEMA howdah;
GRANT USAGE ON SCHEMA howdah TO PUBLIC;

-- Which cluster and group this database is a part of.
CREATE TABLE howdah.cluster (
    one bool PRIMARY KEY DEFAULT true CHECK (one),
    name text NOT NULL,
    group_id int4 NOT NULL,
    schema_version int4 NOT NULL,
    map_epoch int8 NOT NULL
);

-- Hash slot -> group. A row's slot: hash_record_extended(ROW(key), 0) & 4095.
CREATE TABLE howdah.slot_map (
    slot int2 PRIMARY KEY CHECK (slot BETWEEN 0 AND 4095),
    group_id int4 NOT NULL
);

-- Object ids are this group's own.
CREATE TABLE howdah.distributed_tables (
    relid oid PRIMARY KEY,
    key_attnum int2 NOT NULL,
    key_type oid NOT NULL,
    chosen text NOT NULL CHECK (chosen IN ('default', 'user'))
);

-- Grows with every transaction that commits DDL.
CREATE TABLE howdah.catalogue_version (
    one bool PRIMARY KEY DEFAULT true CHECK (one),
    version int8 NOT NULL
);

GRANT SELECT ON ALL TABLES IN SCHEMA howdah TO PUBLIC;

-- A transaction with DDL puts a row here; the deferred trigger takes it out and counts the version up. So the version's
-- row is locked at the end of the transaction only, and a long one with DDL does not hold up the others.
CREATE TABLE howdah.changes (at timestamptz NOT NULL DEFAULT now());

CREATE FUNCTION howdah.count_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM howdah.changes;
    UPDATE howdah.catalogue_version SET version = version + 1;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER count_change AFTER INSERT ON howdah.changes
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION howdah.count_change();
ALTER TABLE howdah.changes ENABLE ALWAYS TRIGGER count_change;

CREATE FUNCTION howdah.bump_version() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Others' rows are never visible: they are gone before they commit.
    IF NOT EXISTS (SELECT FROM howdah.changes) THEN
        INSERT INTO howdah.changes DEFAULT VALUES;
    END IF;
END $$;

-- Writes howdah.owns(slot): whether this group has the slot. The answer is a constant in its body, because it is asked
-- for every row that is stored.
CREATE FUNCTION howdah.rebuild_owns() RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bits bytea := decode(repeat('00', 512), 'hex');
    owned int8;
BEGIN
    FOR owned IN SELECT m.slot FROM howdah.slot_map m JOIN howdah.cluster c USING (group_id) LOOP
        bits := set_bit(bits, owned, 1);
    END LOOP;
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION howdah.owns(slot int8) RETURNS bool LANGUAGE plpgsql STABLE PARALLEL SAFE AS '
        '$f$ BEGIN RETURN pg_catalog.get_bit(%L::bytea, slot) = 1; END $f$', bits);
END $$;

-- The last line of defence. A statement that was routed by an older catalogue can wait here for a lock until the table
-- has another shard key; then its row belongs elsewhere, and is refused rather than lost.
CREATE FUNCTION howdah.refuse_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a row of table "%" belongs to another shard group', TG_TABLE_NAME
        USING ERRCODE = '40001',
            DETAIL = 'The distribution of the table changed while the statement ran, or a trigger changed the row''s '
                     'shard key.',
            HINT = 'Try the statement again.',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END $$;

-- The types that Howdah can hash (hash/key.rs has the same).
CREATE FUNCTION howdah.can_be_key(type oid) RETURNS bool LANGUAGE sql IMMUTABLE AS $$
    SELECT type = ANY ('{int2,int4,int8,text,varchar,bpchar,uuid,bool,date,timestamp,timestamptz,numeric,bytea}'::regtype[]::oid[])
$$;

-- Types of one family hash equal values alike.
CREATE FUNCTION howdah.hash_family(type oid) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN 'integer'
                WHEN type IN ('text'::regtype, 'varchar'::regtype) THEN 'text'
                ELSE type::text END
$$;

CREATE FUNCTION howdah.is_empty(relation regclass) RETURNS bool LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    filled bool;
BEGIN
    -- A snapshot older than the lock would not show what others stored in between.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the distribution of a table cannot be changed in a % transaction',
            upper(current_setting('transaction_isolation'))
            USING ERRCODE = '25001', HINT = 'Use READ COMMITTED.';
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', relation) INTO filled;
    RETURN NOT filled;
END $$;

-- The column of a new table that is its shard key until someone says otherwise: its parent's (of a partition), else the
-- first of its primary key, else its first.
CREATE FUNCTION howdah.default_key(relation regclass) RETURNS int2 LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(
        (SELECT own.attnum
         FROM pg_inherits h
         JOIN howdah.distributed_tables d ON d.relid = h.inhparent
         JOIN pg_attribute theirs ON theirs.attrelid = d.relid AND theirs.attnum = d.key_attnum
         JOIN pg_attribute own ON own.attrelid = h.inhrelid AND own.attname = theirs.attname AND NOT own.attisdropped
         WHERE h.inhrelid = relation ORDER BY h.inhseqno LIMIT 1),
        (SELECT i.indkey[0] FROM pg_index i WHERE i.indrelid = relation AND i.indisprimary),
        (SELECT min(a.attnum) FROM pg_attribute a
         WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped))
$$;

-- Raises what stands against this shard key.
CREATE FUNCTION howdah.check_key(relation regclass, key int2) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    attribute pg_attribute;
    obstacle record;
BEGIN
    SELECT * INTO attribute FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum = key;
    IF NOT FOUND OR attribute.attisdropped THEN
        RAISE EXCEPTION 'table % has no column that can be its shard key', relation USING ERRCODE = '0A000',
            HINT = 'Give it a primary key, or choose a column with create_distributed_table(table, column).';
    END IF;
    IF NOT howdah.can_be_key(attribute.atttypid) THEN
        RAISE EXCEPTION 'column "%" of type % cannot be the shard key of table %',
            attribute.attname, format_type(attribute.atttypid, NULL), relation
            USING ERRCODE = '0A000',
            DETAIL = 'A table is distributed by the first column of its primary key, or by its first column.',
            HINT = 'Shard keys are of type smallint, integer, bigint, text, varchar, char, uuid, boolean, date, '
                   'timestamp, timestamptz, numeric or bytea.';
    END IF;
    IF EXISTS (SELECT FROM pg_collation c WHERE c.oid = attribute.attcollation AND NOT c.collisdeterministic) THEN
        RAISE EXCEPTION 'column "%" with a nondeterministic collation cannot be the shard key of table %',
            attribute.attname, relation USING ERRCODE = '0A000';
    END IF;
    IF attribute.attgenerated <> '' THEN
        RAISE EXCEPTION 'generated column "%" cannot be the shard key of table %', attribute.attname, relation
            USING ERRCODE = '0A000';
    END IF;
    SELECT i.indexrelid::regclass AS name, i.indisprimary, i.indisexclusion INTO obstacle FROM pg_index i
    WHERE i.indrelid = relation AND (i.indisunique OR i.indisexclusion)
      AND (i.indisexclusion OR NOT key = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% "%" does not contain the shard key "%" of table %',
            CASE WHEN obstacle.indisprimary THEN 'primary key' WHEN obstacle.indisexclusion THEN 'exclusion constraint'
                 ELSE 'unique index' END, obstacle.name, attribute.attname, relation
            USING ERRCODE = '0A000',
            DETAIL = 'Rows of different shard groups cannot be checked against each other.',
            HINT = 'Add the shard key to its columns, or choose another with create_distributed_table(table, column) '
                   'while the table is empty.';
    END IF;
    SELECT f.conname AS name, f.conrelid::regclass AS child, f.confrelid::regclass AS parent INTO obstacle
    FROM pg_constraint f
    CROSS JOIN LATERAL (SELECT
        CASE WHEN f.conrelid = relation THEN key
             ELSE (SELECT key_attnum FROM howdah.distributed_tables d WHERE d.relid = f.conrelid) END AS child_key,
        CASE WHEN f.confrelid = relation THEN key
             ELSE (SELECT key_attnum FROM howdah.distributed_tables d WHERE d.relid = f.confrelid) END AS parent_key) k
    WHERE f.contype = 'f' AND relation IN (f.conrelid, f.confrelid)
      AND NOT EXISTS (
        SELECT FROM unnest(f.conkey, f.confkey) AS pair (child_att, parent_att)
        JOIN pg_attribute c ON c.attrelid = f.conrelid AND c.attnum = child_att
        JOIN pg_attribute p ON p.attrelid = f.confrelid AND p.attnum = parent_att
        WHERE child_att = k.child_key AND parent_att = k.parent_key
          AND howdah.hash_family(c.atttypid) = howdah.hash_family(p.atttypid))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'foreign key "%" of table % does not refer from shard key to shard key',
            obstacle.name, obstacle.child USING ERRCODE = '0A000',
            DETAIL = format('The rows that it refers to in table %s can be in another shard group.', obstacle.parent),
            HINT = 'Distribute both tables by the columns of the foreign key.';
    END IF;
END $$;

-- Distributes an empty table by this column.
CREATE FUNCTION howdah.register_table(relation regclass, key int2, chosen_by text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    column_name name;
BEGIN
    PERFORM howdah.check_key(relation, key);
    SELECT a.attname INTO column_name FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum = key;
    INSERT INTO howdah.distributed_tables (relid, key_attnum, key_type, chosen)
        SELECT a.attrelid, a.attnum, a.atttypid, chosen_by FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attnum = key
        ON CONFLICT (relid) DO UPDATE
        SET key_attnum = excluded.key_attnum, key_type = excluded.key_type, chosen = excluded.chosen;
    -- A partition has its parent's trigger.
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'howdah_slot' AND tgparentid <> 0) THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'howdah_slot') THEN
        EXECUTE format('DROP TRIGGER howdah_slot ON %s', relation);
    END IF;
    -- PostgreSQL refuses to change the type of a column that a trigger names, and so nothing ever rewrites the keys of
    -- rows that are stored.
    EXECUTE format(
        'CREATE TRIGGER howdah_slot AFTER INSERT OR UPDATE OF %1$I ON %2$s FOR EACH ROW '
        'WHEN (NOT howdah.owns(hash_record_extended(ROW(NEW.%1$I), 0) & 4095)) '
        'EXECUTE FUNCTION howdah.refuse_row()', column_name, relation);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER howdah_slot', relation);
    -- Neither a dump nor psql shows internal triggers: whoever creates the table again gets it anyway.
    UPDATE pg_trigger SET tgisinternal = true WHERE tgrelid = relation AND tgname = 'howdah_slot';
    PERFORM howdah.bump_version();
END $$;

-- create_distributed_table(): the user's choice. NULL takes the default.
CREATE FUNCTION howdah.distribute_table(relation regclass, key name DEFAULT NULL) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    class pg_class;
    chosen_key int2;
BEGIN
    SELECT * INTO class FROM pg_class c WHERE c.oid = relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'relation % does not exist', relation USING ERRCODE = '42P01';
    END IF;
    IF NOT pg_has_role(session_user, class.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', relation USING ERRCODE = '42501';
    END IF;
    IF class.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION '% is not a table', relation USING ERRCODE = '42809';
    END IF;
    IF class.relpersistence = 't' OR class.relnamespace IN
        ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'howdah'::regnamespace) THEN
        RAISE EXCEPTION 'table % cannot be distributed', relation USING ERRCODE = '0A000',
            DETAIL = 'It is a temporary or a system table.';
    END IF;
    IF key IS NULL THEN
        chosen_key := howdah.default_key(relation);
    ELSE
        SELECT a.attnum INTO chosen_key FROM pg_attribute a
        WHERE a.attrelid = relation AND a.attname = key AND a.attnum > 0 AND NOT a.attisdropped;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'column "%" of relation "%" does not exist', key, relation USING ERRCODE = '42703';
        END IF;
    END IF;
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = relation OR inhparent = relation) THEN
        RAISE EXCEPTION 'the shard key of %, a partition or parent of other tables, cannot be changed', relation
            USING ERRCODE = '0A000', HINT = 'Choose it before partitions are added.';
    END IF;
    IF NOT howdah.is_empty(relation) THEN
        RAISE EXCEPTION 'table % has rows', relation USING ERRCODE = '55000',
            DETAIL = 'The shard key can be chosen only while the table is empty.',
            HINT = 'Create a new table, distribute it, and copy the rows.';
    END IF;
    PERFORM howdah.register_table(relation, chosen_key, CASE WHEN key IS NULL THEN 'default' ELSE 'user' END);
END $$;

-- A primary key is about to be added that begins with this column: it becomes the shard key, also of a table with rows,
-- which the session moves next. False, and nothing is done, where the user has chosen another, or has partitions.
CREATE FUNCTION howdah.move_key(relation regclass, key name) RETURNS bool LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_key int2;
BEGIN
    IF NOT pg_has_role(session_user, (SELECT relowner FROM pg_class WHERE oid = relation), 'USAGE') THEN
        RAISE EXCEPTION 'must be owner of table %', relation USING ERRCODE = '42501';
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', relation);
    IF NOT EXISTS (SELECT FROM howdah.distributed_tables WHERE relid = relation AND chosen = 'default')
        OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = relation OR inhparent = relation)
        OR EXISTS (SELECT FROM pg_index WHERE indrelid = relation AND indisprimary) THEN
        RETURN false;
    END IF;
    SELECT a.attnum INTO new_key FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attname = key AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Where the table is empty, its new trigger would give it back the default key of before (on_ddl).
    PERFORM howdah.register_table(relation, new_key, 'user');
    UPDATE howdah.distributed_tables SET chosen = 'default' WHERE relid = relation;
    RETURN true;
END $$;

-- A new table gets its default shard key.
CREATE FUNCTION howdah.table_created(relation regclass, tag text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    filled bool;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', relation) INTO filled;
    IF filled THEN
        RAISE EXCEPTION '% with rows is not supported', tag USING ERRCODE = '0A000',
            HINT = 'Use CREATE TABLE, or CREATE TABLE AS ... WITH NO DATA, and then INSERT.';
    END IF;
    PERFORM howdah.register_table(relation, howdah.default_key(relation), 'default');
END $$;

-- A distributed table was altered: its shard key must still hold, or a default one be chosen again while it is empty
-- (CREATE TABLE, then ALTER TABLE ... ADD PRIMARY KEY, as dumps do).
CREATE FUNCTION howdah.table_altered(relation regclass) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known howdah.distributed_tables;
    rule int2;
BEGIN
    SELECT * INTO known FROM howdah.distributed_tables d WHERE d.relid = relation;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    rule := howdah.default_key(relation);
    IF known.chosen = 'default' AND rule IS DISTINCT FROM known.key_attnum
        AND current_setting('transaction_isolation') = 'read committed' AND howdah.is_empty(relation) THEN
        PERFORM howdah.register_table(relation, rule, 'default');
    ELSE
        PERFORM howdah.check_key(relation, known.key_attnum);
    END IF;
END $$;

CREATE FUNCTION howdah.on_ddl() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    command record;
    altered regclass;
BEGIN
    FOR command IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
        CONTINUE WHEN command.schema_name IN ('pg_temp', 'howdah');
        PERFORM howdah.bump_version();
        CONTINUE WHEN command.classid <> 'pg_class'::regclass OR command.in_extension;
        IF command.command_tag IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO') THEN
            -- Once: a command with several parts is listed several times.
            IF NOT EXISTS (SELECT FROM howdah.distributed_tables WHERE relid = command.objid)
                AND EXISTS (SELECT FROM pg_class WHERE oid = command.objid AND relkind IN ('r', 'p')) THEN
                PERFORM howdah.table_created(command.objid, command.command_tag);
            END IF;
        ELSE
            SELECT coalesce(i.indrelid, command.objid) INTO altered
            FROM (SELECT) AS nothing LEFT JOIN pg_index i ON i.indexrelid = command.objid;
            PERFORM howdah.table_altered(altered);
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION howdah.on_drop() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM howdah.distributed_tables d USING pg_event_trigger_dropped_objects() o
    WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.objid = d.relid;
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN
        PERFORM howdah.bump_version();
    END IF;
END $$;

-- What became of transactions across groups whose anchor is this group (transaction/mod.rs). The row that got in first
-- is the outcome. It commits with the anchor's part of the transaction.
CREATE TABLE howdah.decisions (
    gid text PRIMARY KEY,
    committed bool NOT NULL,
    -- What wrote this, as a rule the anchor's own part; and the parts that were prepared.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    group_ids int4[] NOT NULL,
    xids xid8[] NOT NULL,
    made timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX decisions_xid ON howdah.decisions (xid) WHERE committed;

CREATE FUNCTION howdah.decide(gid text, group_ids int4[], xids xid8[]) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO howdah.decisions (gid, committed, group_ids, xids) VALUES ($1, true, $2, $3) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the transaction took too long to commit and was rolled back' USING ERRCODE = '40001',
            DETAIL = 'Another node took its coordinator for lost.', HINT = 'Try the transaction again.';
    END IF;
END $$;

-- Whether the transaction is committed. Where nothing is decided, it is rolled back from now on. Waits for a decision
-- that is being committed.
CREATE FUNCTION howdah.settle(gid text) RETURNS bool LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO howdah.decisions (gid, committed, group_ids, xids) VALUES ($1, false, '{}', '{}')
        ON CONFLICT DO NOTHING;
    RETURN (SELECT d.committed FROM howdah.decisions d WHERE d.gid = $1);
END $$;

-- What users may call.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA howdah FROM PUBLIC;
GRANT EXECUTE ON FUNCTION howdah.distribute_table(regclass, name) TO PUBLIC;
-- By the session that then moves the rows; the analysis lets no statement of a user name it.
GRANT EXECUTE ON FUNCTION howdah.move_key(regclass, name) TO PUBLIC;
-- By a session's own COMMIT; the analysis lets no statement of a user name it.
GRANT EXECUTE ON FUNCTION howdah.decide(text, int4[], xid8[]) TO PUBLIC;

CREATE EVENT TRIGGER howdah_ddl ON ddl_command_end EXECUTE FUNCTION howdah.on_ddl();
CREATE EVENT TRIGGER howdah_drop ON sql_drop EXECUTE FUNCTION howdah.on_drop();
-- Also under session_replication_role = replica.
ALTER EVENT TRIGGER howdah_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER howdah_drop ENABLE ALWAYS;
