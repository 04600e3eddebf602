//! The stored catalogue: which tables are distributed, by what, and what is refused.

use coordinator::catalogue::bootstrap::{BootstrapError, Identity, Installed, distribute_table_sql, install};
use coordinator::catalogue::{Catalogue, FilledBy, Relation, RelationKind, Resolved};
use coordinator::hash::{KeyColumn, KeySource, KeyType, KeyUse};
use coordinator::slots::{MapEpoch, SlotMap};
use shard::id::GroupId;
use tokio_postgres::Client;

use crate::server::{FIRST, SECOND, Server, placement};

/// One group that has all slots.
async fn one_group() -> (Server, Client) {
    let server = Server::start();
    let mut client = server.connect("postgres").await;
    let slots = SlotMap::place(MapEpoch(1), &[FIRST]).unwrap();
    install(
        &mut client,
        Identity {
            cluster: "test",
            group: FIRST,
            slots: &slots,
        },
    )
    .await
    .unwrap();
    (server, client)
}

fn table<'a>(catalogue: &'a Catalogue, name: &str) -> &'a Relation {
    match catalogue.resolve(&["public"], None, name) {
        Resolved::Relation(relation) => relation,
        other => panic!("{name} is {other:?}"),
    }
}

fn key(catalogue: &Catalogue, name: &str) -> String {
    table(catalogue, name)
        .key_column()
        .map_or_else(|| "none".to_owned(), |column| column.name.clone())
}

async fn refused(client: &Client, sql: &str) -> (String, String) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

#[tokio::test]
async fn a_new_table_is_distributed_by_its_primary_key_or_first_column() {
    let (_server, client) = one_group().await;
    client
        .batch_execute(
            "CREATE TABLE keyed (note text, a int DEFAULT 7, b varchar(9) NOT NULL, PRIMARY KEY (b, a));
             CREATE TABLE plain (first numeric(8,2), second int);
             CREATE TABLE identified (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, twice int GENERATED ALWAYS AS (2) STORED);
             CREATE TABLE later (other text, id uuid); ALTER TABLE later ADD PRIMARY KEY (id);
             CREATE TABLE copied AS SELECT a, b FROM keyed WITH NO DATA;
             CREATE TABLE parts (other int, id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (9);
             CREATE TEMP TABLE mine (a jsonb);
             CREATE VIEW seen AS SELECT * FROM keyed; CREATE SEQUENCE counter;
             CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one; CREATE SCHEMA app; CREATE TABLE app.keyed (x int)",
        )
        .await
        .unwrap();
    let catalogue = Catalogue::load(&client).await.unwrap();
    let keys = [
        "keyed",
        "plain",
        "identified",
        "later",
        "copied",
        "parts",
        "part1",
        "seen",
        "counter",
        "kept",
    ];
    let keys: Vec<_> = keys
        .iter()
        .map(|name| format!("{name}:{}", key(&catalogue, name)))
        .collect();
    let expected = "keyed:b plain:first identified:id later:id copied:a parts:id part1:id seen:none counter:none kept:none";
    assert_eq!(keys.join(" "), expected);

    let keyed = table(&catalogue, "keyed");
    assert_eq!((keyed.kind, keyed.columns.len()), (RelationKind::Table, 3));
    assert_eq!(
        keyed.primary_key,
        [keyed.columns[2].number, keyed.columns[1].number]
    );
    assert_eq!(keyed.unique, std::slice::from_ref(&keyed.primary_key));
    assert_eq!(keyed.column("a").unwrap().filled_by, FilledBy::Default);
    assert!(keyed.column("b").unwrap().not_null && !keyed.column("note").unwrap().not_null);
    let column = keyed.shard_key().unwrap().column;
    assert_eq!((column.key_type, column.type_modifier), (KeyType::Varchar, 13));
    let identified = table(&catalogue, "identified");
    assert!(matches!(
        identified.columns[0].filled_by,
        FilledBy::Identity { always: true, .. }
    ));
    assert_eq!(identified.columns[1].filled_by, FilledBy::Generated);
    assert_eq!(table(&catalogue, "parts").kind, RelationKind::PartitionedTable);
    assert_eq!(table(&catalogue, "seen").kind, RelationKind::View);

    assert!(matches!(
        catalogue.resolve(&["public"], None, "mine"),
        Resolved::Unknown
    ));
    assert!(matches!(
        catalogue.resolve(&["public"], None, "pg_class"),
        Resolved::System
    ));
    assert!(matches!(
        catalogue.resolve(&[], Some("information_schema"), "tables"),
        Resolved::System
    ));
    assert!(matches!(
        catalogue.resolve(&[], Some("howdah"), "slot_map"),
        Resolved::System
    ));
    assert!(matches!(
        catalogue.resolve(&["app"], None, "plain"),
        Resolved::Unknown
    ));
    let Resolved::Relation(inner) = catalogue.resolve(&["nowhere", "app", "public"], None, "keyed") else {
        panic!("app.keyed is not found")
    };
    assert_eq!(inner.schema, "app");
    assert_eq!(catalogue.slots().shares()[&FIRST], 4096);
}

#[tokio::test]
async fn what_one_group_could_not_hold_true_is_refused() {
    let (_server, client) = one_group().await;
    client
        .batch_execute(
            "CREATE TABLE t (a int PRIMARY KEY, b int, c point);
             CREATE TABLE filled (a int, b int); INSERT INTO filled VALUES (1, 2);
             CREATE TABLE child (a int REFERENCES t, b int)",
        )
        .await
        .unwrap();
    let cases = [
        (
            "CREATE TABLE bad (a int PRIMARY KEY, b int UNIQUE)",
            "0A000",
            "does not contain the shard key",
        ),
        (
            "CREATE UNIQUE INDEX ON t (b)",
            "0A000",
            "does not contain the shard key",
        ),
        (
            "CREATE UNIQUE INDEX ON filled (b)",
            "0A000",
            "does not contain the shard key",
        ),
        ("ALTER TABLE filled ADD PRIMARY KEY (b)", "0A000", "primary key"),
        (
            "CREATE TABLE bad (x int, a int REFERENCES t)",
            "0A000",
            "foreign key",
        ),
        (
            "CREATE TABLE bad (a int8, EXCLUDE USING btree (a WITH =))",
            "0A000",
            "exclusion constraint",
        ),
        ("CREATE TABLE bad AS SELECT 1 AS a", "0A000", "with rows"),
        ("SELECT 1 AS a INTO bad", "0A000", "with rows"),
        ("ALTER TABLE t ALTER a TYPE int8", "0A000", "trigger"),
        ("ALTER TABLE t DROP a", "2BP01", "depend"),
        ("ALTER TABLE filled DROP a CASCADE", "0A000", "no column"),
        (
            &distribute_table_sql("public", "nowhere", "hash", None),
            "42P01",
            "does not exist",
        ),
        (
            &distribute_table_sql("public", "t", "hash", Some("zz")),
            "42703",
            "does not exist",
        ),
        (
            &distribute_table_sql("public", "t", "hash", Some("c")),
            "0A000",
            "type point",
        ),
        (
            &distribute_table_sql("public", "t", "hash", Some("b")),
            "0A000",
            "does not contain the shard key",
        ),
        (
            &distribute_table_sql("public", "child", "hash", Some("b")),
            "0A000",
            "foreign key",
        ),
        (
            &distribute_table_sql("pg_catalog", "pg_class", "hash", None),
            "0A000",
            "cannot be distributed",
        ),
        (
            &distribute_table_sql("pg_catalog", "pg_user", "hash", None),
            "42809",
            "not a table",
        ),
    ];
    for (sql, sqlstate, words) in cases {
        let (state, message) = refused(&client, sql).await;
        assert!(
            state == sqlstate && message.contains(words),
            "{sql}: {state} {message}"
        );
    }
    client
        .batch_execute("CREATE ROLE someone LOGIN; GRANT ALL ON t TO someone")
        .await
        .unwrap();
    client
        .batch_execute("SET SESSION AUTHORIZATION someone")
        .await
        .unwrap();
    assert_eq!(
        refused(&client, &distribute_table_sql("public", "t", "hash", None))
            .await
            .0,
        "42501"
    );
    client.batch_execute("RESET SESSION AUTHORIZATION").await.unwrap();
    let catalogue = Catalogue::load(&client).await.unwrap();
    assert_eq!(
        (key(&catalogue, "t"), key(&catalogue, "filled")),
        ("a".to_owned(), "a".to_owned())
    );
}

#[tokio::test]
async fn another_key_is_chosen_by_the_owner_of_a_table() {
    let (server, client) = one_group().await;
    // By a user without any right on the catalogue, on a table with a difficult name.
    client
        .batch_execute("CREATE ROLE someone LOGIN; GRANT CREATE ON SCHEMA public TO someone")
        .await
        .unwrap();
    let user = server.connect_as("someone", "postgres").await;
    user.batch_execute("CREATE TABLE \"it's \\ \"\"odd\"\"\" (a int, \"B 'x\" text)")
        .await
        .unwrap();
    let sql = distribute_table_sql("public", "it's \\ \"odd\"", "hash", Some("B 'x"));
    user.batch_execute(&sql).await.unwrap();
    let chosen = Catalogue::load(&client).await.unwrap();
    assert_eq!(key(&chosen, "it's \\ \"odd\""), "B 'x");
    user.batch_execute("INSERT INTO \"it's \\ \"\"odd\"\"\" VALUES (1, 'x')")
        .await
        .unwrap();
    // The user's choice is not undone by the rule for defaults.
    user.batch_execute("ALTER TABLE \"it's \\ \"\"odd\"\"\" ADD c int")
        .await
        .unwrap();
    let later = Catalogue::load(&client).await.unwrap();
    assert_eq!(key(&later, "it's \\ \"odd\""), "B 'x");
    assert!(later.version() > chosen.version());
}

#[tokio::test]
async fn the_version_grows_with_committed_ddl_only() {
    let (_server, client) = one_group().await;
    let mut seen = Catalogue::load(&client).await.unwrap().version();
    let changing = [
        "CREATE TABLE t (a int)",
        "ALTER TABLE t RENAME TO u",
        "BEGIN; CREATE TABLE v (a int); SAVEPOINT s; CREATE TABLE w (a int); ROLLBACK TO s; COMMIT",
        "CREATE INDEX CONCURRENTLY ON u (a)",
        "SET session_replication_role = replica; CREATE TABLE x (a int); RESET session_replication_role",
        "CREATE SCHEMA other",
        "ALTER TABLE u SET SCHEMA other",
        "DO $$ BEGIN EXECUTE 'CREATE TABLE y (a int)'; END $$",
        "DROP TABLE other.u",
        "DROP SCHEMA other CASCADE",
    ];
    for sql in changing {
        for part in if sql.starts_with("SET") {
            sql.split("; ").collect()
        } else {
            vec![sql]
        } {
            client.batch_execute(part).await.unwrap();
        }
        let version = Catalogue::load(&client).await.unwrap().version();
        assert!(version > seen, "{sql}");
        seen = version;
    }
    for sql in [
        "INSERT INTO v VALUES (1)",
        "CREATE TEMP TABLE passing (a jsonb)",
        "DROP TABLE passing",
        "BEGIN; CREATE TABLE z (a int); ROLLBACK",
        "ANALYZE v",
    ] {
        client.batch_execute(sql).await.unwrap();
        assert_eq!(Catalogue::load(&client).await.unwrap().version(), seen, "{sql}");
    }
    let catalogue = Catalogue::load(&client).await.unwrap();
    assert_eq!(
        (key(&catalogue, "x"), key(&catalogue, "y")),
        ("a".to_owned(), "a".to_owned())
    );
    let registered: i64 = client
        .query_one("SELECT count(*) FROM howdah.distributed_tables", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(registered, 3, "dropped tables are forgotten");
}

#[tokio::test]
async fn two_transactions_with_ddl_do_not_wait_for_each_other() {
    let (server, client) = one_group().await;
    let other = server.connect("postgres").await;
    client
        .batch_execute("BEGIN; CREATE TABLE slow (a int)")
        .await
        .unwrap();
    other
        .batch_execute("SET lock_timeout = '2s'; CREATE TABLE quick (a int)")
        .await
        .unwrap();
    client.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn a_row_of_another_group_is_refused_where_it_would_be_stored() {
    let server = Server::start();
    let mut client = server.connect("postgres").await;
    let slots = placement();
    install(
        &mut client,
        Identity {
            cluster: "test",
            group: FIRST,
            slots: &slots,
        },
    )
    .await
    .unwrap();
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY, b int)")
        .await
        .unwrap();
    let catalogue = Catalogue::load(&client).await.unwrap();
    assert_eq!(catalogue.slots().as_ref(), &slots);
    let column = table(&catalogue, "t").shard_key().unwrap().column;
    let (mut ours, mut theirs) = (0, 0);
    for a in 0..200i32 {
        let slot = column
            .from_parameter(KeyUse::Assignment, 0, 1, Some(&a.to_be_bytes()))
            .unwrap();
        let sql = format!("INSERT INTO t VALUES ({a}, 1)");
        if catalogue.slots().group(slot) == FIRST {
            client.batch_execute(&sql).await.unwrap();
            ours += 1;
        } else {
            assert_eq!(refused(&client, &sql).await.0, "40001");
            theirs += 1;
        }
    }
    assert!(ours > 60 && theirs > 60, "{ours} {theirs}");
    client.batch_execute("UPDATE t SET b = 2").await.unwrap();
    assert_eq!(refused(&client, "UPDATE t SET a = a + 1000").await.0, "40001");
}

#[tokio::test]
async fn an_insert_that_waited_while_the_key_changed_is_refused() {
    let server = Server::start();
    let (mut client, other) = (server.connect("postgres").await, server.connect("postgres").await);
    let slots = placement();
    install(
        &mut client,
        Identity {
            cluster: "test",
            group: FIRST,
            slots: &slots,
        },
    )
    .await
    .unwrap();
    client
        .batch_execute("CREATE TABLE t (a int PRIMARY KEY, b int)")
        .await
        .unwrap();
    // By column a this row is the first group's; by column b the same numbers are not.
    let column = KeyColumn {
        key_type: KeyType::Int4,
        type_modifier: -1,
    };
    let of = |group| {
        let slot = |n: i32| {
            column
                .slot(KeyUse::Assignment, KeySource::Number(&n.to_string()))
                .unwrap()
        };
        (0..100).find(|n| slots.group(slot(*n)) == group).unwrap()
    };
    let sql = format!("INSERT INTO t (a, b) VALUES ({}, {})", of(FIRST), of(SECOND));
    client
        .batch_execute("BEGIN; DROP TABLE t; CREATE TABLE t (b int PRIMARY KEY, a int)")
        .await
        .unwrap();
    let waiting = other.batch_execute(&sql);
    let changing = async {
        let sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)";
        let watcher = server.connect("postgres").await;
        while !watcher.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {}
        client.batch_execute("COMMIT").await.unwrap();
    };
    let (inserted, ()) = tokio::join!(waiting, changing);
    let error = inserted.expect_err("the row would be lost");
    assert_eq!(error.code().unwrap().code(), "40001");
}

#[tokio::test]
async fn installing_twice_at_once_installs_once() {
    let server = Server::start();
    let (mut one, mut two) = (server.connect("postgres").await, server.connect("postgres").await);
    let slots = placement();
    let identity = Identity {
        cluster: "test",
        group: FIRST,
        slots: &slots,
    };
    let (first, second) = tokio::join!(install(&mut one, identity), install(&mut two, identity));
    let found = [first.unwrap(), second.unwrap()];
    assert!(found.contains(&Installed::Now) && found.contains(&Installed::Before));
    for foreign in [
        Identity {
            cluster: "another",
            ..identity
        },
        Identity {
            group: GroupId(2),
            ..identity
        },
    ] {
        let refused = install(&mut one, foreign).await;
        assert!(
            matches!(refused, Err(BootstrapError::Foreign { .. })),
            "{refused:?}"
        );
    }
}
