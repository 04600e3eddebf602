-- What is Howdah's own in a database stays out of dumps: a database that they are restored to has it already, and nobody
-- may define it. pg_dump leaves out what belongs to an extension that PostgreSQL has from the start. (It leaves out
-- internal triggers, too: register_table.) Run once, after all else: the privileges of this moment are not dumped either.
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT 'ADD SCHEMA howdah'
        UNION ALL
        SELECT format('ADD TABLE %s', oid::regclass) FROM pg_class
        WHERE relnamespace = 'howdah'::regnamespace AND relkind = 'r'
        UNION ALL
        SELECT format('ADD FUNCTION %s', oid::regprocedure) FROM pg_proc WHERE pronamespace = 'howdah'::regnamespace
        UNION ALL
        SELECT format('ADD EVENT TRIGGER %I', evtname) FROM pg_event_trigger WHERE evtname LIKE 'howdah%'
    LOOP
        EXECUTE 'ALTER EXTENSION plpgsql ' || command;
    END LOOP;
END $$;
