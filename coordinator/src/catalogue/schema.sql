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

-- Where a table's rows are: each in the group of its shard key's slot ('hash'), all of them in every group ('reference'),
-- or all of them in the group that has slot 0 ('local'). Object ids are this group's own.
CREATE TABLE howdah.distributed_tables (
    relid oid PRIMARY KEY,
    distribution text NOT NULL CHECK (distribution IN ('hash', 'reference', 'local')),
    key_attnum int2,
    key_type oid,
    chosen text NOT NULL CHECK (chosen IN ('default', 'user')),
    CHECK ((distribution = 'hash') = (key_attnum IS NOT NULL)), CHECK ((distribution = 'hash') = (key_type IS NOT NULL))
);

-- Grows with every transaction that commits DDL.
CREATE TABLE howdah.catalogue_version (
    one bool PRIMARY KEY DEFAULT true CHECK (one),
    version int8 NOT NULL
);

-- What views stand for, with every name qualified: kept here since pg_get_viewdef() looks past the snapshot that the rest of the
-- catalogue is read in. A definition changes with the names in it.
CREATE TABLE howdah.views (
    relid oid PRIMARY KEY,
    definition text NOT NULL
);

-- The sequences that are not temporary. Another file node means that something has set a sequence's state or its
-- parameters; `generation` grows with that and with setval(), and whoever has values of another generation forgets them.
CREATE TABLE howdah.sequences (
    relid oid PRIMARY KEY,
    filenode oid NOT NULL,
    generation int8 NOT NULL DEFAULT 1,
    -- It is made ready for ALTER SEQUENCE at this moment.
    opening bool NOT NULL DEFAULT false
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
    -- Of a user's trigger that changes rows before they are stored: to try again would be of no use.
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = TG_RELID
        AND (NOT t.tgisinternal OR t.tgparentid <> 0) AND t.tgname !~ '^howdah_' AND t.tgtype & 3 = 3) THEN
        RAISE EXCEPTION 'a trigger gave a row of table "%" a shard key of another shard group', TG_TABLE_NAME
            USING ERRCODE = '0A000', DETAIL = 'Or the distribution of the table changed while the statement ran.',
                HINT = 'Let triggers leave the shard key as it is.', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
    END IF;
    RAISE EXCEPTION 'a row of table "%" belongs to another shard group', TG_TABLE_NAME
        USING ERRCODE = '40001',
            DETAIL = 'The distribution of the table changed while the statement ran.',
            HINT = 'Try the statement again.',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
END $$;

-- All writers of a reference table take this lock in each group, in ascending order, before their statement has a snapshot
-- there. So each statement finds the same committed rows in every group. A prepared transaction keeps it to its end.
CREATE FUNCTION howdah.lock_reference(relation regclass) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    writer name := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
    -- Who may not write to it gets PostgreSQL's own words from his statement, and holds up nobody.
    IF has_table_privilege(writer, relation, 'INSERT, UPDATE, DELETE')
        OR has_any_column_privilege(writer, relation, 'INSERT, UPDATE') THEN
        EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', relation);
        PERFORM set_config('howdah.writes_reference', 'yes', true);
    END IF;
END $$;

-- The last line of defence of copies: a statement that was routed as if the table were another.
CREATE FUNCTION howdah.refuse_copy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('howdah.writes_reference', true) IS DISTINCT FROM 'yes' THEN
        RAISE EXCEPTION 'reference table "%" would be changed in one shard group alone', TG_TABLE_NAME
            USING ERRCODE = '40001', DETAIL = 'The distribution of the table changed while the statement ran.',
                HINT = 'Try the statement again.', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
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
-- first of its primary key, else its first. None where the parent has none.
CREATE FUNCTION howdah.default_key(relation regclass) RETURNS int2 LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN NOT EXISTS (
        SELECT FROM pg_inherits h JOIN howdah.distributed_tables d ON d.relid = h.inhparent
        WHERE h.inhrelid = relation AND d.distribution <> 'hash')
    THEN coalesce(
        (SELECT own.attnum
         FROM pg_inherits h
         JOIN howdah.distributed_tables d ON d.relid = h.inhparent
         JOIN pg_attribute theirs ON theirs.attrelid = d.relid AND theirs.attnum = d.key_attnum
         JOIN pg_attribute own ON own.attrelid = h.inhrelid AND own.attname = theirs.attname AND NOT own.attisdropped
         WHERE h.inhrelid = relation ORDER BY h.inhseqno LIMIT 1),
        (SELECT i.indkey[0] FROM pg_index i WHERE i.indrelid = relation AND i.indisprimary),
        (SELECT min(a.attnum) FROM pg_attribute a
         WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped))
    END
$$;

-- Whether the column is of a kind that can be a shard key.
CREATE FUNCTION howdah.can_distribute(relation regclass, key int2) RETURNS bool LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_attribute a LEFT JOIN pg_collation c ON c.oid = a.attcollation
        WHERE a.attrelid = relation AND a.attnum = key AND NOT a.attisdropped AND howdah.can_be_key(a.atttypid)
          AND a.attgenerated = '' AND c.collisdeterministic IS NOT FALSE)
$$;

-- Raises what stands against a table's foreign keys, and those that refer to it: each group must find the row that a row of
-- its own refers to, and the rows that refer to a row of its own.
CREATE FUNCTION howdah.check_foreign_keys(relation regclass) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    f record;
    beside text;
BEGIN
    FOR f IN
        SELECT k.conname, k.conrelid::regclass AS child, k.confrelid::regclass AS parent,
            c.distribution AS child_is, p.distribution AS parent_is,
            k.confupdtype IN ('c', 'n', 'd') AND c.key_attnum = ANY (k.conkey)
                OR k.confdeltype IN ('n', 'd')
                AND c.key_attnum = ANY (translate(coalesce(nullif(to_jsonb(k) -> 'confdelsetcols', 'null'),
                    to_jsonb(k.conkey))::text, '[]', '{}')::int2[]) AS moves,
            EXISTS (
                SELECT FROM unnest(k.conkey, k.confkey) AS pair (child_att, parent_att)
                JOIN pg_attribute ca ON ca.attrelid = k.conrelid AND ca.attnum = child_att
                JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = parent_att
                WHERE child_att = c.key_attnum AND parent_att = p.key_attnum
                  AND howdah.hash_family(ca.atttypid) = howdah.hash_family(pa.atttypid)) AS together
        FROM pg_constraint k
        JOIN howdah.distributed_tables c ON c.relid = k.conrelid
        JOIN howdah.distributed_tables p ON p.relid = k.confrelid
        WHERE k.contype = 'f' AND relation IN (k.conrelid, k.confrelid)
    LOOP
        IF f.moves THEN
            RAISE EXCEPTION 'foreign key "%" of table % would change the shard key', f.conname, f.child
                USING ERRCODE = '0A000', DETAIL = 'SET NULL, SET DEFAULT and CASCADE of updates change rows where they are.',
                    HINT = 'Leave ON UPDATE out, and use ON DELETE CASCADE or NO ACTION.';
        END IF;
        CONTINUE WHEN f.parent_is = 'reference' OR f.child_is = 'local' AND f.parent_is = 'local'
            OR f.child_is = 'hash' AND f.parent_is = 'hash' AND f.together;
        beside := CASE f.parent_is WHEN 'local' THEN 'all in one shard group' ELSE 'in the group of their shard key' END;
        RAISE EXCEPTION 'foreign key "%" of table % does not refer from shard key to shard key', f.conname, f.child
            USING ERRCODE = '0A000',
                DETAIL = format('Rows of table %s are %s, which need not be that of the rows that refer to them.',
                    f.parent, beside),
                HINT = format('Distribute both tables by the columns of the foreign key, or have table %s in every group, '
                    'SELECT create_reference_table(''%s''), and add the foreign key then.', f.parent, f.parent);
    END LOOP;
END $$;

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
            HINT = 'Add the shard key to its columns, or choose another with create_distributed_table(table, column).';
    END IF;
END $$;

-- Whether a trigger may change rows that are updated, of the table, or of any where partitions are beside it.
CREATE FUNCTION howdah.changes_rows(relation regclass) RETURNS bool LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (
        SELECT FROM pg_trigger t
        WHERE (t.tgrelid = relation OR t.tgrelid IN
                (SELECT p.relid FROM pg_partition_tree(coalesce(pg_partition_root(relation), relation)) p))
          AND (NOT t.tgisinternal OR t.tgparentid <> 0) AND t.tgname !~ '^howdah_' AND t.tgtype & 19 = 19)
$$;

-- Raises what stands against a table's triggers where its rows are so.
CREATE FUNCTION howdah.check_triggers(relation regclass, kind text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named name;
BEGIN
    SELECT t.tgname INTO named FROM pg_trigger t
    WHERE t.tgrelid = relation AND NOT t.tgisinternal AND t.tgname !~ '^howdah_'
      AND (kind = 'reference' OR kind = 'hash' AND t.tgtype & 1 = 0) LIMIT 1;
    IF FOUND AND kind = 'reference' THEN
        RAISE EXCEPTION 'reference table % cannot have trigger "%"', relation, named USING ERRCODE = '0A000',
            DETAIL = 'Every group would fire it for itself, and all must store the same rows.', HINT = 'Drop it first.';
    ELSIF FOUND THEN
        RAISE EXCEPTION 'distributed table % cannot have trigger "%" FOR EACH STATEMENT', relation, named
            USING ERRCODE = '0A000', DETAIL = 'It would fire once in each group.', HINT = 'Drop it first.';
    END IF;
END $$;

-- A row that is updated is looked at whether or not the statement names its shard key, where a trigger may change it. Rows are in
-- tables and partitions without partitions.
CREATE FUNCTION howdah.guard_keys(altered regclass) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    root regclass := coalesce(pg_partition_root(altered), altered);
    member howdah.distributed_tables;
BEGIN
    IF NOT howdah.changes_rows(root) THEN
        RETURN;
    END IF;
    FOR member IN
        SELECT d.* FROM howdah.distributed_tables d JOIN pg_class c ON c.oid = d.relid
        WHERE d.distribution = 'hash' AND c.relkind = 'r'
          AND (d.relid = root OR d.relid IN (SELECT p.relid FROM pg_partition_tree(root) p))
    LOOP
        IF EXISTS (SELECT FROM pg_trigger t
            WHERE t.tgrelid = member.relid AND t.tgname = 'howdah_slot' AND t.tgattr::text <> '') THEN
            PERFORM howdah.register_table(member.relid, member.distribution, member.key_attnum, member.chosen);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_trigger t
            WHERE t.tgrelid = member.relid AND t.tgname = 'howdah_slot' AND t.tgattr::text = '') THEN
            RAISE EXCEPTION 'table % cannot have triggers that change rows', root USING ERRCODE = '0A000',
                DETAIL = format('Nothing would find shard keys that they change in %s.', member.relid::regclass);
        END IF;
    END LOOP;
END $$;

-- Notes where the rows of a table are, and guards it against others.
CREATE FUNCTION howdah.register_table(relation regclass, new_distribution text, key int2, chosen_by text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    condition text := 'NOT howdah.owns(0)';
    columns text := '';
BEGIN
    PERFORM howdah.check_triggers(relation, new_distribution);
    IF new_distribution = 'hash' THEN
        PERFORM howdah.check_key(relation, key);
        SELECT format('NOT howdah.owns(hash_record_extended(ROW(NEW.%1$I), 0) & 4095)', a.attname), CASE WHEN NOT howdah.changes_rows(relation) THEN format(' OF %I', a.attname) ELSE '' END
            INTO condition, columns FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum = key;
    END IF;
    INSERT INTO howdah.distributed_tables AS d (relid, distribution, key_attnum, key_type, chosen)
        SELECT relation, new_distribution, a.attnum, a.atttypid, chosen_by
        FROM (SELECT) AS one LEFT JOIN pg_attribute a
            ON a.attrelid = relation AND a.attnum = key AND new_distribution = 'hash'
        ON CONFLICT (relid) DO UPDATE SET distribution = excluded.distribution, key_attnum = excluded.key_attnum,
            key_type = excluded.key_type, chosen = excluded.chosen;
    PERFORM howdah.check_foreign_keys(relation);
    PERFORM howdah.bump_version();
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'howdah_copy') THEN
        EXECUTE format('DROP TRIGGER howdah_copy ON %s', relation);
    END IF;
    -- A partition has its parent's trigger.
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'howdah_slot' AND tgparentid <> 0) THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'howdah_slot') THEN
        EXECUTE format('DROP TRIGGER howdah_slot ON %s', relation);
    END IF;
    IF new_distribution = 'reference' THEN
        EXECUTE format('CREATE TRIGGER howdah_copy AFTER INSERT OR UPDATE OR DELETE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION howdah.refuse_copy()', relation);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER howdah_copy', relation);
    ELSE
        -- PostgreSQL refuses to change the type of a column that a trigger names, and so nothing ever rewrites the keys of
        -- rows that are stored.
        EXECUTE format('CREATE TRIGGER howdah_slot AFTER INSERT OR UPDATE%s ON %s FOR EACH ROW WHEN (%s) '
            'EXECUTE FUNCTION howdah.refuse_row()', columns, relation, condition);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER howdah_slot', relation);
    END IF;
    -- Neither a dump nor psql shows internal triggers: whoever creates the table again gets it anyway.
    UPDATE pg_trigger SET tgisinternal = true WHERE tgrelid = relation AND tgname IN ('howdah_slot', 'howdah_copy');
END $$;

-- What is about to become of a table: create_distributed_table(), create_reference_table(), undistribute_table(). The session
-- moves its rows next. Gives where they are. NULL takes the default shard key.
CREATE FUNCTION howdah.distribute_table(relation regclass, new_distribution text, key name) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    class pg_class;
    chosen_key int2;
    former text;
    referrer regclass;
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
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = relation OR inhparent = relation) THEN
        RAISE EXCEPTION 'the distribution of %, a partition or parent of other tables, cannot be changed', relation
            USING ERRCODE = '0A000', HINT = 'Choose it before partitions are added.';
    END IF;
    IF new_distribution = 'hash' THEN
        IF key IS NULL THEN
            chosen_key := howdah.default_key(relation);
        ELSE
            SELECT a.attnum INTO chosen_key FROM pg_attribute a
            WHERE a.attrelid = relation AND a.attname = key AND a.attnum > 0 AND NOT a.attisdropped;
            IF NOT FOUND THEN
                RAISE EXCEPTION 'column "%" of relation "%" does not exist', key, relation USING ERRCODE = '42703';
            END IF;
        END IF;
    END IF;
    SELECT distribution INTO former FROM howdah.distributed_tables WHERE relid = relation;
    IF NOT howdah.is_empty(relation) THEN
        SELECT k.conrelid INTO referrer FROM pg_constraint k
        WHERE k.contype = 'f' AND k.confrelid = relation ORDER BY k.conname LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'rows of table % cannot be moved while table % refers to them', relation, referrer
                USING ERRCODE = '55000', HINT = 'Drop the foreign key, and add it again afterwards.';
        END IF;
        IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND NOT tgisinternal) THEN
            RAISE EXCEPTION 'rows of table % cannot be moved while it has triggers', relation
                USING ERRCODE = '55000', HINT = 'Drop them, and create them again afterwards.';
        END IF;
    END IF;
    PERFORM howdah.register_table(relation, new_distribution, chosen_key,
        CASE WHEN new_distribution = 'hash' AND key IS NULL THEN 'default' ELSE 'user' END);
    IF 'reference' IN (former, new_distribution) THEN
        PERFORM howdah.lock_reference(relation);
    END IF;
    RETURN former;
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
    IF NOT FOUND OR NOT howdah.can_distribute(relation, new_key) THEN
        RETURN false;
    END IF;
    -- Where the table is empty, its new trigger would give it back the default key of before (on_ddl).
    PERFORM howdah.register_table(relation, 'hash', new_key, 'user');
    UPDATE howdah.distributed_tables SET chosen = 'default' WHERE relid = relation;
    RETURN true;
END $$;

-- A table gets the distribution that it has where nobody chooses one: its parent's (of a partition), else by its default shard
-- key, and where that cannot be one it is local.
CREATE FUNCTION howdah.register_default(relation regclass) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule int2 := howdah.default_key(relation);
    kind text := (SELECT d.distribution FROM pg_inherits h JOIN howdah.distributed_tables d ON d.relid = h.inhparent
        WHERE h.inhrelid = relation ORDER BY h.inhseqno LIMIT 1);
BEGIN
    kind := coalesce(kind, CASE WHEN howdah.can_distribute(relation, rule) THEN 'hash' ELSE 'local' END);
    PERFORM howdah.register_table(relation, kind, rule, 'default');
END $$;

-- A new table gets its default distribution.
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
    PERFORM howdah.register_default(relation);
END $$;

-- A table was altered: its shard key must still hold, or a default one be chosen again while it is empty (CREATE TABLE, then
-- ALTER TABLE ... ADD PRIMARY KEY, as dumps do).
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
    IF NOT howdah.can_distribute(relation, rule) THEN
        rule := NULL;
    END IF;
    IF known.chosen = 'default' AND rule IS DISTINCT FROM known.key_attnum
        AND current_setting('transaction_isolation') = 'read committed' AND howdah.is_empty(relation) THEN
        PERFORM howdah.register_default(relation);
    ELSIF known.distribution = 'hash' THEN
        PERFORM howdah.check_key(relation, known.key_attnum);
    END IF;
    PERFORM howdah.check_foreign_keys(relation);
    PERFORM howdah.guard_keys(relation);
END $$;

CREATE FUNCTION howdah.note_views() RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM howdah.views v WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = v.relid AND c.relkind = 'v');
    INSERT INTO howdah.views AS v (relid, definition)
        SELECT c.oid, pg_get_viewdef(c.oid) FROM pg_class c
        WHERE c.relkind = 'v' AND c.relpersistence <> 't' AND c.relnamespace NOT IN
            ('pg_catalog'::regnamespace, 'information_schema'::regnamespace, 'howdah'::regnamespace)
        ON CONFLICT (relid) DO UPDATE SET definition = excluded.definition WHERE v.definition <> excluded.definition;
$$;

-- A sequence counts in the cluster's first group alone, the home group; nodes take values of it there (howdah.draw). In the
-- others it stands at its end, so that what asks it for a value there gets an error (2200H), and never a value that is
-- handed out twice. One with CYCLE has no end, and promises no unique numbers either: of that the analysis alone keeps
-- statements that would ask it.
CREATE FUNCTION howdah.is_home() RETURNS bool LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.group_id = (SELECT min(m.group_id) FROM howdah.slot_map m) FROM howdah.cluster c
$$;

-- Finds the sequences that are new or whose state was set by a definition or by TRUNCATE ... RESTART IDENTITY.
CREATE FUNCTION howdah.sequences_changed() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed record;
    used bool;
BEGIN
    FOR changed IN
        SELECT c.oid, c.relname, c.relfilenode, k.relid IS NULL AS is_new, q.seqincrement, q.seqmax, q.seqmin
        FROM pg_class c JOIN pg_sequence q ON q.seqrelid = c.oid LEFT JOIN howdah.sequences k ON k.relid = c.oid
        WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND k.filenode IS DISTINCT FROM c.relfilenode
          AND k.opening IS NOT TRUE
        ORDER BY c.oid
    LOOP
        IF changed.is_new THEN
            EXECUTE format('SELECT is_called FROM %s', changed.oid::regclass) INTO used;
            IF used THEN
                RAISE EXCEPTION 'rows that are there cannot be numbered by sequence "%"', changed.relname
                    USING ERRCODE = '0A000', DETAIL = 'Each group would count its own rows.',
                        HINT = 'Add the column without a default, give the rows values, and then set the default or add '
                               'the identity.';
            END IF;
        END IF;
        INSERT INTO howdah.sequences AS k (relid, filenode) VALUES (changed.oid, changed.relfilenode)
            ON CONFLICT (relid) DO UPDATE SET filenode = excluded.filenode, generation = k.generation + 1;
        IF NOT howdah.is_home() THEN
            PERFORM setval(changed.oid::regclass,
                CASE WHEN changed.seqincrement > 0 THEN changed.seqmax ELSE changed.seqmin END);
        END IF;
        PERFORM howdah.bump_version();
    END LOOP;
END $$;

-- The state of a sequence, or of those that belong to a table's columns, before it is altered; asked of the home group.
CREATE FUNCTION howdah.sequence_states(relation text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found record;
    state json;
    states json[] := '{}';
BEGIN
    FOR found IN
        SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND (c.oid = to_regclass(relation) OR EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass(relation) AND d.deptype IN ('a', 'i')))
    LOOP
        EXECUTE format('SELECT json_build_object(''name'', %L, ''last'', last_value) FROM %s',
            format('%I.%I', found.nspname, found.relname), found.oid::regclass) INTO state;
        states := states || state;
    END LOOP;
    RETURN array_to_json(states)::text;
END $$;

-- Takes sequences that stand at their ends to where the home group has them, so that ALTER SEQUENCE finds there what it
-- finds here. All of it goes with the transaction; what follows the definition takes them back (sequences_changed).
CREATE FUNCTION howdah.open_sequences(states text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    state record;
BEGIN
    IF howdah.is_home() THEN
        RETURN;
    END IF;
    FOR state IN SELECT * FROM json_to_recordset(states::json) AS s (name text, last int8) LOOP
        UPDATE howdah.sequences SET opening = true WHERE relid = state.name::regclass;
        EXECUTE format('ALTER SEQUENCE %s RESTART WITH %s', state.name::regclass, state.last);
        UPDATE howdah.sequences SET opening = false WHERE relid = state.name::regclass;
    END LOOP;
END $$;

-- setval() was called on the home group: values that nodes have of the sequence are forgotten when this is committed.
CREATE FUNCTION howdah.sequence_set(relation text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE howdah.sequences SET generation = generation + 1 WHERE relid = to_regclass(relation);
    PERFORM howdah.bump_version();
END $$;

-- Takes values of a sequence for a node: as many as wanted, fewer where it ends, and the error of nextval() where it has ended.
-- A session keeps values of a sequence with CACHE and forgets them at its end: so whole caches are taken.
CREATE FUNCTION howdah.draw(relation text, wanted int8) RETURNS int8[] LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sequence regclass := relation::regclass;
    parameters pg_sequence;
    state record;
    remaining numeric;
    count int8;
BEGIN
    IF NOT howdah.is_home() THEN
        RAISE EXCEPTION 'sequence % counts in another group', sequence;
    END IF;
    SELECT * INTO parameters FROM pg_sequence WHERE seqrelid = sequence;
    EXECUTE format('SELECT last_value, is_called FROM %s', sequence) INTO state;
    remaining := div(CASE WHEN parameters.seqincrement > 0 THEN parameters.seqmax ELSE parameters.seqmin END::numeric
        - state.last_value, parameters.seqincrement) + CASE WHEN state.is_called THEN 0 ELSE 1 END;
    count := CASE WHEN parameters.seqcache > 10000 THEN wanted
        ELSE (wanted + parameters.seqcache - 1) / parameters.seqcache * parameters.seqcache END;
    IF NOT parameters.seqcycle THEN
        count := greatest(1, least(count, remaining));
    END IF;
    -- nextval() logs one call in 32, and a transaction without a row of its own waits for no replication: what it has given
    -- could be given again by the next leader. With this in the log its commit waits.
    PERFORM pg_logical_emit_message(true, 'howdah', '');
    RETURN ARRAY(SELECT nextval(sequence) FROM generate_series(1, count));
END $$;

-- Which of several functions of a name is called depends on types, which the analysis does not know. So none of a user's has the
-- name of one of PostgreSQL's own.
CREATE FUNCTION howdah.check_name(function oid) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    called name;
BEGIN
    SELECT p.proname INTO called FROM pg_proc p JOIN pg_proc o ON o.proname = p.proname
    WHERE p.oid = function AND o.pronamespace = 'pg_catalog'::regnamespace;
    IF FOUND THEN
        RAISE EXCEPTION 'a function of yours that is called "%" is not supported', called USING ERRCODE = '0A000',
            DETAIL = 'PostgreSQL has functions of that name, and which one a statement calls depends on types.',
            HINT = 'Give it another name.';
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
        IF command.classid = 'pg_proc'::regclass AND NOT command.in_extension THEN
            PERFORM howdah.check_name(command.objid);
        ELSIF command.classid = 'pg_trigger'::regclass THEN
            PERFORM howdah.check_triggers(t.tgrelid, (SELECT d.distribution FROM howdah.distributed_tables d
                WHERE d.relid = t.tgrelid)), howdah.guard_keys(t.tgrelid) FROM pg_trigger t
            WHERE t.oid = command.objid AND NOT t.tgisinternal AND t.tgname !~ '^howdah_';
        END IF;
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
    PERFORM howdah.note_views();
    PERFORM howdah.sequences_changed();
END $$;

CREATE FUNCTION howdah.on_drop() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM howdah.distributed_tables d USING pg_event_trigger_dropped_objects() o
    WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.objid = d.relid;
    DELETE FROM howdah.sequences s USING pg_event_trigger_dropped_objects() o
    WHERE o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND o.objid = s.relid;
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary) THEN
        PERFORM howdah.bump_version();
    END IF;
    PERFORM howdah.note_views();
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
GRANT EXECUTE ON FUNCTION howdah.distribute_table(regclass, text, name) TO PUBLIC;
-- By the session of whoever writes to a reference table; the analysis lets no statement of a user name it.
GRANT EXECUTE ON FUNCTION howdah.lock_reference(regclass) TO PUBLIC;
-- By the session that then moves the rows; the analysis lets no statement of a user name it.
GRANT EXECUTE ON FUNCTION howdah.move_key(regclass, name) TO PUBLIC;
-- By a session around definitions and setval(); neither may statements of users name these.
GRANT EXECUTE ON FUNCTION howdah.sequences_changed() TO PUBLIC;
GRANT EXECUTE ON FUNCTION howdah.sequence_states(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION howdah.open_sequences(text) TO PUBLIC;
GRANT EXECUTE ON FUNCTION howdah.sequence_set(text) TO PUBLIC;
-- By a session's own COMMIT; the analysis lets no statement of a user name it.
GRANT EXECUTE ON FUNCTION howdah.decide(text, int4[], xid8[]) TO PUBLIC;

CREATE EVENT TRIGGER howdah_ddl ON ddl_command_end EXECUTE FUNCTION howdah.on_ddl();
CREATE EVENT TRIGGER howdah_drop ON sql_drop EXECUTE FUNCTION howdah.on_drop();
-- Also under session_replication_role = replica.
ALTER EVENT TRIGGER howdah_ddl ENABLE ALWAYS;
ALTER EVENT TRIGGER howdah_drop ENABLE ALWAYS;
