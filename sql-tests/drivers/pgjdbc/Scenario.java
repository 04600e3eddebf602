// pgjdbc: what Java applications and their pools do. Prints each check's name, a tab, and what came of it.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.sql.*;
import java.time.OffsetDateTime;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.util.PGobject;

public class Scenario {
    interface Check {
        void run(Connection db) throws Exception;
    }

    static final Map<String, Check> CHECKS = new LinkedHashMap<>();

    static Connection connect(String... options) throws SQLException {
        Map<String, String> env = System.getenv();
        String url = "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE");
        Properties properties = new Properties();
        properties.setProperty("user", env.get("PGUSER"));
        for (String option : options) {
            properties.setProperty(option.split("=")[0], option.split("=")[1]);
        }
        return DriverManager.getConnection(url, properties);
    }

    static void same(Object found, Object wanted) {
        if (!Objects.equals(found, wanted)) {
            throw new IllegalStateException("wrong: " + found + " instead of " + wanted);
        }
    }

    static void fails(String state, Check work, Connection db) throws Exception {
        try {
            work.run(db);
        } catch (SQLException error) {
            same(error.getSQLState(), state);
            return;
        }
        throw new IllegalStateException("wrong: it did not fail with " + state);
    }

    static int update(Connection db, String sql) throws SQLException {
        try (Statement statement = db.createStatement()) {
            return statement.executeUpdate(sql);
        }
    }

    static List<Object> column(Connection db, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = db.prepareStatement(sql)) {
            for (int at = 0; at < parameters.length; at++) {
                statement.setObject(at + 1, parameters[at]);
            }
            List<Object> found = new ArrayList<>();
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next()) {
                    found.add(rows.getObject(1));
                }
            }
            return found;
        }
    }

    static {
        CHECKS.put("connect", db -> {
            same(column(db, "SELECT 1 + 1"), List.of(2));
            same(db.isValid(5), true);
            same(db.getMetaData().getDatabaseProductName(), "PostgreSQL");
        });
        CHECKS.put("connect to the primary of several hosts", db -> {
            Map<String, String> env = System.getenv();
            String host = env.get("PGHOST") + ":" + env.get("PGPORT");
            String url = "jdbc:postgresql://127.0.0.1:1," + host + "/postgres?targetServerType=primary&user=postgres&loginTimeout=10";
            try (Connection other = DriverManager.getConnection(url)) {
                same(column(other, "SELECT 1"), List.of(1));
            }
        });
        CHECKS.put("schema", db -> {
            update(db, "DROP TABLE IF EXISTS j_item");
            update(db, "CREATE TABLE j_item (id bigint PRIMARY KEY, name text NOT NULL, price numeric(10, 2), tags text[], doc jsonb, data bytea, at timestamptz)");
            update(db, "CREATE INDEX j_item_name ON j_item (name)");
        });
        CHECKS.put("metadata", db -> {
            DatabaseMetaData meta = db.getMetaData();
            List<String> names = new ArrayList<>();
            try (ResultSet columns = meta.getColumns(null, "public", "j_item", null)) {
                while (columns.next()) {
                    names.add(columns.getString("COLUMN_NAME"));
                }
            }
            same(names, List.of("id", "name", "price", "tags", "doc", "data", "at"));
            try (ResultSet tables = meta.getTables(null, "public", "j_it%", new String[] {"TABLE"})) {
                same(tables.next() && tables.getString("TABLE_NAME").equals("j_item"), true);
            }
            try (ResultSet keys = meta.getPrimaryKeys(null, "public", "j_item")) {
                same(keys.next() && keys.getString("COLUMN_NAME").equals("id"), true);
            }
            try (ResultSet indexes = meta.getIndexInfo(null, "public", "j_item", false, true)) {
                same(indexes.next(), true);
            }
        });
        CHECKS.put("migrations", db -> {
            db.setAutoCommit(false);
            update(db, "ALTER TABLE j_item ADD COLUMN stock integer NOT NULL DEFAULT 0");
            update(db, "CREATE INDEX j_item_stock ON j_item (stock)");
            db.commit();
            update(db, "ALTER TABLE j_item ADD COLUMN lost integer");
            db.rollback();
            fails("42703", other -> column(other, "SELECT lost FROM j_item WHERE id = 1"), db);
            db.rollback();
        });
        CHECKS.put("crud", db -> {
            try (PreparedStatement insert = db.prepareStatement("INSERT INTO j_item (id, name, price) VALUES (?, ?, ?)")) {
                for (long id = 1; id <= 20; id++) {
                    insert.setLong(1, id);
                    insert.setString(2, "item " + id);
                    insert.setBigDecimal(3, new BigDecimal("1.50"));
                    same(insert.executeUpdate(), 1);
                }
            }
            same(column(db, "SELECT count(*) FROM j_item"), List.of(20L));
            same(new TreeSet<>(column(db, "SELECT id FROM j_item")).size(), 20);
            same(update(db, "UPDATE j_item SET stock = 2 WHERE id > 15"), 5);
            same(update(db, "DELETE FROM j_item WHERE id = 20"), 1);
            same(column(db, "INSERT INTO j_item (id, name) VALUES (1, 'again') ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING name"), List.of("again"));
        });
        CHECKS.put("batches", db -> {
            for (String rewrite : List.of("false", "true")) {
                try (Connection other = connect("reWriteBatchedInserts=" + rewrite);
                        PreparedStatement insert = other.prepareStatement("INSERT INTO j_item (id, name) VALUES (?, ?)")) {
                    long from = rewrite.equals("true") ? 300 : 200;
                    for (long id = from; id < from + 50; id++) {
                        insert.setLong(1, id);
                        insert.setString(2, "batch");
                        insert.addBatch();
                    }
                    same(insert.executeBatch().length, 50);
                }
            }
            same(column(db, "SELECT count(*) FROM j_item WHERE name = 'batch'"), List.of(100L));
        });
        CHECKS.put("generated keys", db -> {
            try (PreparedStatement insert = db.prepareStatement("INSERT INTO j_item (id, name) VALUES (400, 'x')", Statement.RETURN_GENERATED_KEYS)) {
                insert.executeUpdate();
                try (ResultSet keys = insert.getGeneratedKeys()) {
                    same(keys.next() ? keys.getLong("id") : null, 400L);
                }
            }
        });
        CHECKS.put("transactions", db -> {
            db.setAutoCommit(false);
            for (long id = 1; id <= 4; id++) {
                update(db, "UPDATE j_item SET price = 10 WHERE id = " + id);
            }
            Savepoint here = db.setSavepoint();
            update(db, "UPDATE j_item SET price = 99 WHERE id = 2");
            db.rollback(here);
            db.commit();
            same(new TreeSet<>(column(db, "SELECT id FROM j_item WHERE price = 10")), new TreeSet<>(List.of(1L, 2L, 3L, 4L)));
            db.rollback();
            db.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
            same(column(db, "SELECT count(*) FROM j_item WHERE id < 20"), List.of(19L));
            db.commit();
        });
        CHECKS.put("prepared statements", db -> {
            try (PreparedStatement select = db.prepareStatement("SELECT id, price, name FROM j_item WHERE id = ?")) {
                // From the fifth on the server's own statement is used, with binary results.
                for (long id = 1; id <= 12; id++) {
                    select.setLong(1, id);
                    try (ResultSet rows = select.executeQuery()) {
                        same(rows.next() ? rows.getLong(1) : null, id);
                    }
                }
            }
        });
        CHECKS.put("a prepared statement survives DDL", db -> {
            try (PreparedStatement select = db.prepareStatement("SELECT * FROM j_item WHERE id = ?")) {
                for (long id = 1; id <= 12; id++) {
                    if (id == 8) {
                        try (Connection other = connect()) {
                            update(other, "ALTER TABLE j_item ADD COLUMN later text");
                        }
                    }
                    select.setLong(1, id);
                    try (ResultSet rows = select.executeQuery()) {
                        same(rows.next(), true);
                    }
                }
            }
        });
        CHECKS.put("COPY in", db -> {
            StringBuilder lines = new StringBuilder();
            for (int id = 1000; id < 2000; id++) {
                lines.append(id).append("\tcopied \\t x\n");
            }
            long rows = db.unwrap(PGConnection.class).getCopyAPI().copyIn("COPY j_item (id, name) FROM STDIN", new StringReader(lines.toString()));
            same(rows, 1000L);
            same(column(db, "SELECT name FROM j_item WHERE id = 1999"), List.of("copied \t x"));
        });
        CHECKS.put("COPY out", db -> {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            db.unwrap(PGConnection.class).getCopyAPI().copyOut("COPY j_item (id) TO STDOUT (FORMAT csv)", out);
            same(out.toString().lines().filter(line -> Long.parseLong(line) >= 1000).count(), 1000L);
        });
        CHECKS.put("large values", db -> {
            byte[] data = new byte[5_000_000];
            new Random(1).nextBytes(data);
            try (PreparedStatement update = db.prepareStatement("UPDATE j_item SET data = ? WHERE id = ?")) {
                for (long id = 1; id <= 3; id++) {
                    update.setBytes(1, data);
                    update.setLong(2, id);
                    same(update.executeUpdate(), 1);
                }
            }
            for (long id = 1; id <= 3; id++) {
                same(Arrays.equals(data, (byte[]) column(db, "SELECT data FROM j_item WHERE id = ?", id).get(0)), true);
            }
        });
        CHECKS.put("arrays", db -> {
            try (PreparedStatement update = db.prepareStatement("UPDATE j_item SET tags = ? WHERE id = 4")) {
                update.setArray(1, db.createArrayOf("text", new String[] {"a", null, "b \"c\""}));
                same(update.executeUpdate(), 1);
            }
            Array tags = (Array) column(db, "SELECT tags FROM j_item WHERE id = 4").get(0);
            same(Arrays.asList((String[]) tags.getArray()), Arrays.asList("a", null, "b \"c\""));
        });
        CHECKS.put("JSON", db -> {
            PGobject doc = new PGobject();
            doc.setType("jsonb");
            doc.setValue("{\"n\": [1, null, \"ü\"]}");
            try (PreparedStatement update = db.prepareStatement("UPDATE j_item SET doc = ? WHERE id = 5")) {
                update.setObject(1, doc);
                same(update.executeUpdate(), 1);
            }
            same(column(db, "SELECT doc->'n'->>2 FROM j_item WHERE id = 5"), List.of("ü"));
        });
        CHECKS.put("types", db -> {
            OffsetDateTime at = OffsetDateTime.parse("2024-01-01T12:00:00Z");
            UUID id = new UUID(0, 7);
            same(column(db, "SELECT ?::uuid", id), List.of(id));
            same(column(db, "SELECT ?::numeric", new BigDecimal("1.50")), List.of(new BigDecimal("1.50")));
            try (PreparedStatement select = db.prepareStatement("SELECT ?::timestamptz")) {
                select.setObject(1, at);
                try (ResultSet rows = select.executeQuery()) {
                    same(rows.next() && rows.getObject(1, OffsetDateTime.class).isEqual(at), true);
                }
            }
        });
        CHECKS.put("errors", db -> {
            fails("42601", other -> update(other, "SELEC 1"), db);
            fails("23505", other -> update(other, "INSERT INTO j_item (id, name) VALUES (1, 'x')"), db);
            fails("23502", other -> update(other, "INSERT INTO j_item (id) VALUES (-1)"), db);
            db.setAutoCommit(false);
            fails("22012", other -> column(other, "SELECT 1 / 0"), db);
            fails("25P02", other -> column(other, "SELECT 1"), db);
            db.rollback();
            same(column(db, "SELECT 1"), List.of(1));
            db.rollback();
        });
        CHECKS.put("fetch size", db -> {
            db.setAutoCommit(false);
            try (Statement statement = db.createStatement()) {
                statement.setFetchSize(100);
                int rows = 0;
                try (ResultSet all = statement.executeQuery("SELECT id FROM j_item WHERE id >= 1000")) {
                    while (all.next()) {
                        rows++;
                    }
                }
                same(rows, 1000);
            }
            db.commit();
        });
        CHECKS.put("cancel", db -> {
            try (Statement statement = db.createStatement()) {
                new Timer(true).schedule(new TimerTask() {
                    @Override
                    public void run() {
                        try {
                            statement.cancel();
                        } catch (SQLException error) {
                            System.err.println(error);
                        }
                    }
                }, 300);
                fails("57014", other -> statement.executeQuery("SELECT pg_sleep(20)"), db);
            }
            same(column(db, "SELECT 1"), List.of(1));
        });
        CHECKS.put("query timeout", db -> {
            try (Statement statement = db.createStatement()) {
                statement.setQueryTimeout(1);
                fails("57014", other -> statement.executeQuery("SELECT pg_sleep(20)"), db);
            }
        });
        CHECKS.put("statement_timeout", db -> {
            update(db, "SET statement_timeout = '200ms'");
            fails("57014", other -> column(other, "SELECT pg_sleep(20)"), db);
        });
        CHECKS.put("read-only connection", db -> {
            db.setReadOnly(true);
            db.setAutoCommit(false);
            fails("25006", other -> update(other, "DELETE FROM j_item WHERE id = 1"), db);
            db.rollback();
            same(column(db, "SELECT count(*) FROM j_item WHERE id < 20"), List.of(19L));
            db.commit();
        });
        CHECKS.put("serial keys", db -> {
            update(db, "DROP TABLE IF EXISTS j_serial");
            update(db, "CREATE TABLE j_serial (id bigserial PRIMARY KEY, name text)");
            same(update(db, "INSERT INTO j_serial (name) VALUES ('a'), ('b')"), 2);
        });
        CHECKS.put("ORDER BY and LIMIT over all rows", db ->
            same(column(db, "SELECT id FROM j_item ORDER BY id LIMIT 2"), List.of(1L, 2L)));
    }

    public static void main(String[] arguments) {
        for (Map.Entry<String, Check> check : CHECKS.entrySet()) {
            String outcome = "ok";
            try (Connection db = connect()) {
                check.getValue().run(db);
            } catch (SQLException error) {
                outcome = error.getSQLState() + " " + error.getMessage().lines().findFirst().orElse("").replace("ERROR: ", "");
            } catch (Exception error) {
                outcome = String.valueOf(error.getMessage());
            }
            System.out.println(check.getKey() + "\t" + outcome.replace('\t', ' '));
        }
    }
}
