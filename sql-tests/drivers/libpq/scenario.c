/* libpq, as C programs and everything that wraps it use it. Prints each check's name, a tab, and what came of it. */

#include <libpq-fe.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <arpa/inet.h>

static char outcome[500];

/* The first thing that went wrong in a check is what is told of it. */
static bool
wrong(const char *format, ...)
{
	va_list		arguments;

	if (outcome[0] == '\0')
	{
		va_start(arguments, format);
		vsnprintf(outcome, sizeof(outcome), format, arguments);
		va_end(arguments);
		outcome[strcspn(outcome, "\n")] = '\0';
	}
	return false;
}

static bool
expect(PGresult *result, ExecStatusType status)
{
	const char *state;

	if (PQresultStatus(result) == status)
		return true;
	state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	if (state != NULL)
		return wrong("%s %s", state, PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
	return wrong("wrong: %s", PQresStatus(PQresultStatus(result)));
}

static bool
run(PGconn *db, const char *sql)
{
	PGresult   *result = PQexec(db, sql);
	ExecStatusType status = PQresultStatus(result);
	bool		good = status == PGRES_TUPLES_OK || expect(result, PGRES_COMMAND_OK);

	PQclear(result);
	return good;
}

/* Whether a result is this value, in its first column and row. */
static bool
is(PGresult *result, const char *wanted)
{
	bool		good = expect(result, PGRES_TUPLES_OK);

	if (good && (PQntuples(result) == 0 || strcmp(PQgetvalue(result, 0, 0), wanted) != 0))
		good = wrong("wrong: %s instead of %s", PQntuples(result) ? PQgetvalue(result, 0, 0) : "nothing", wanted);
	PQclear(result);
	return good;
}

static bool
fails(PGresult *result, const char *wanted)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	bool		good = state != NULL && strcmp(state, wanted) == 0;

	if (!good)
		wrong("%s %s, instead of %s", state ? state : "wrong:", state ? PQresultErrorMessage(result) : "it did not fail", wanted);
	PQclear(result);
	return good;
}

static void
connecting(PGconn *db)
{
	PGconn	   *other;
	char		info[200];

	is(PQexec(db, "SELECT 1 + 1"), "2");
	if (PQserverVersion(db) < 140000 || strcmp(PQparameterStatus(db, "client_encoding"), "UTF8") != 0)
		wrong("wrong: version %d, encoding %s", PQserverVersion(db), PQparameterStatus(db, "client_encoding"));
	/* libpq asks for what it wants to know of the server: in_hot_standby, default_transaction_read_only. */
	snprintf(info, sizeof(info), "host=127.0.0.1,%s port=1,%s target_session_attrs=read-write connect_timeout=5", getenv("PGHOST"), getenv("PGPORT"));
	other = PQconnectdb(info);
	if (PQstatus(other) != CONNECTION_OK)
		wrong("wrong: %s", PQerrorMessage(other));
	PQfinish(other);
	snprintf(info, sizeof(info), "host=%s target_session_attrs=primary", getenv("PGHOST"));
	other = PQconnectdb(info);
	if (PQstatus(other) != CONNECTION_OK)
		wrong("wrong: %s", PQerrorMessage(other));
	PQfinish(other);
}

static void
schema(PGconn *db)
{
	run(db, "DROP TABLE IF EXISTS c_item");
	run(db, "CREATE TABLE c_item (id bigint PRIMARY KEY, name text NOT NULL, data bytea)");
	run(db, "CREATE INDEX c_item_name ON c_item (name)");
}

static void
migrations(PGconn *db)
{
	run(db, "BEGIN; ALTER TABLE c_item ADD COLUMN stock integer NOT NULL DEFAULT 0; CREATE INDEX c_item_stock ON c_item (stock); COMMIT");
	run(db, "BEGIN");
	run(db, "ALTER TABLE c_item ADD COLUMN lost integer");
	fails(PQexec(db, "CREATE TABLE c_item (id bigint PRIMARY KEY)"), "42P07");
	run(db, "ROLLBACK");
	fails(PQexec(db, "SELECT lost FROM c_item WHERE id = 1"), "42703");
}

static void
crud(PGconn *db)
{
	char		id[20];
	const char *values[2] = {id, "item"};

	for (int at = 1; at <= 20; at++)
	{
		PGresult   *result;

		snprintf(id, sizeof(id), "%d", at);
		result = PQexecParams(db, "INSERT INTO c_item (id, name) VALUES ($1, $2)", 2, NULL, values, NULL, NULL, 0);
		expect(result, PGRES_COMMAND_OK);
		PQclear(result);
	}
	is(PQexec(db, "SELECT count(*) FROM c_item"), "20");
	is(PQexec(db, "UPDATE c_item SET stock = id WHERE id = 7 RETURNING stock"), "7");
	run(db, "UPDATE c_item SET stock = stock + 1");
	is(PQexec(db, "SELECT stock FROM c_item WHERE id = 7"), "8");
	run(db, "DELETE FROM c_item WHERE id = 20");
	is(PQexec(db, "SELECT id FROM c_item WHERE id = 1; SELECT id FROM c_item WHERE id = 2"), "2");
}

static void
transactions(PGconn *db)
{
	run(db, "BEGIN");
	for (int at = 1; at <= 4; at++)
	{
		char		sql[100];

		snprintf(sql, sizeof(sql), "UPDATE c_item SET name = 'moved' WHERE id = %d", at);
		run(db, sql);
	}
	if (PQtransactionStatus(db) != PQTRANS_INTRANS)
		wrong("wrong: not in a transaction");
	run(db, "SAVEPOINT here; UPDATE c_item SET name = 'lost' WHERE id = 2; ROLLBACK TO here");
	run(db, "COMMIT");
	is(PQexec(db, "SELECT count(*) FROM c_item WHERE name = 'moved'"), "4");
}

static void
prepared(PGconn *db)
{
	PGresult   *result = PQprepare(db, "by id", "SELECT id, name FROM c_item WHERE id = $1", 0, NULL);

	expect(result, PGRES_COMMAND_OK);
	PQclear(result);
	result = PQdescribePrepared(db, "by id");
	if (expect(result, PGRES_COMMAND_OK) && (PQnparams(result) != 1 || PQparamtype(result, 0) != 20 || PQnfields(result) != 2))
		wrong("wrong: the description");
	PQclear(result);
	for (int64_t at = 1; at <= 10; at++)
	{
		int64_t		big = (int64_t) htonl((uint32_t) at) << 32;
		const char *values[1] = {(const char *) &big};
		int			lengths[1] = {sizeof(big)};
		int			formats[1] = {1};

		result = PQexecPrepared(db, "by id", 1, values, lengths, formats, 1);
		if (expect(result, PGRES_TUPLES_OK) && (PQntuples(result) != 1 || memcmp(PQgetvalue(result, 0, 0), &big, sizeof(big)) != 0))
			wrong("wrong: the row of %d", (int) at);
		PQclear(result);
	}
}

static void
pipeline(PGconn *db)
{
	int			found = 0;
	PGresult   *result;

	if (!PQenterPipelineMode(db))
		wrong("wrong: no pipeline");
	for (int at = 1; at <= 10; at++)
	{
		char		id[20];
		const char *values[1] = {id};

		snprintf(id, sizeof(id), "%d", at);
		PQsendQueryParams(db, "UPDATE c_item SET stock = 100 WHERE id = $1 RETURNING stock", 1, NULL, values, NULL, NULL, 0);
	}
	PQpipelineSync(db);
	PQsendQueryParams(db, "SELECT 1 / 0", 0, NULL, NULL, NULL, NULL, 0);
	PQsendQueryParams(db, "SELECT 1", 0, NULL, NULL, NULL, NULL, 0);
	PQpipelineSync(db);
	for (int at = 0; at < 10; at++)
	{
		result = PQgetResult(db);
		found += expect(result, PGRES_TUPLES_OK) && PQntuples(result) == 1;
		PQclear(result);
		PQgetResult(db);
	}
	result = PQgetResult(db);
	expect(result, PGRES_PIPELINE_SYNC);
	PQclear(result);
	fails(PQgetResult(db), "22012");
	PQgetResult(db);
	result = PQgetResult(db);
	expect(result, PGRES_PIPELINE_ABORTED);
	PQclear(result);
	PQgetResult(db);
	result = PQgetResult(db);
	expect(result, PGRES_PIPELINE_SYNC);
	PQclear(result);
	PQexitPipelineMode(db);
	if (found != 10)
		wrong("wrong: %d of 10", found);
	is(PQexec(db, "SELECT count(*) FROM c_item WHERE stock = 100"), "10");
}

static void
rows_one_by_one(PGconn *db)
{
	int			found = 0;
	PGresult   *result;

	PQsendQuery(db, "SELECT id FROM c_item");
	if (!PQsetSingleRowMode(db))
		wrong("wrong: no single-row mode");
	while ((result = PQgetResult(db)) != NULL)
	{
		if (PQresultStatus(result) == PGRES_SINGLE_TUPLE)
			found++;
		else
			expect(result, PGRES_TUPLES_OK);
		PQclear(result);
	}
	if (found != 19)
		wrong("wrong: %d rows", found);
}

static void
copy_in(PGconn *db)
{
	PGresult   *result = PQexec(db, "COPY c_item (id, name) FROM STDIN");

	expect(result, PGRES_COPY_IN);
	PQclear(result);
	for (int at = 1000; at < 2000; at++)
	{
		char		line[100];
		int			length = snprintf(line, sizeof(line), "%d\tcopied \\\\ %d\n", at, at);

		PQputCopyData(db, line, length);
	}
	PQputCopyEnd(db, NULL);
	result = PQgetResult(db);
	if (expect(result, PGRES_COMMAND_OK) && strcmp(PQcmdTuples(result), "1000") != 0)
		wrong("wrong: %s rows", PQcmdTuples(result));
	PQclear(result);
	while ((result = PQgetResult(db)) != NULL)
		PQclear(result);
	is(PQexec(db, "SELECT name FROM c_item WHERE id = 1999"), "copied \\ 1999");
	result = PQexec(db, "COPY c_item (id, name) FROM STDIN");
	expect(result, PGRES_COPY_IN);
	PQclear(result);
	PQputCopyData(db, "5000\tx\n", 7);
	PQputCopyEnd(db, "changed my mind");
	fails(PQgetResult(db), "57014");
	while ((result = PQgetResult(db)) != NULL)
		PQclear(result);
	is(PQexec(db, "SELECT count(*) FROM c_item WHERE id = 5000"), "0");
}

static void
copy_out(PGconn *db)
{
	PGresult   *result = PQexec(db, "COPY c_item (id, name) TO STDOUT");
	char	   *line;
	int			rows = 0;

	expect(result, PGRES_COPY_OUT);
	PQclear(result);
	while (PQgetCopyData(db, &line, 0) > 0)
	{
		rows += strstr(line, "copied") != NULL;
		PQfreemem(line);
	}
	while ((result = PQgetResult(db)) != NULL)
	{
		expect(result, PGRES_COMMAND_OK);
		PQclear(result);
	}
	if (rows != 1000)
		wrong("wrong: %d rows", rows);
}

static void
large_values(PGconn *db)
{
	int			size = 5000000;
	char	   *data = malloc(size);
	const char *values[1] = {data};
	int			formats[1] = {1};

	for (int at = 0; at < size; at++)
		data[at] = (char) (at * 31);
	for (int id = 1; id <= 3; id++)
	{
		char		sql[100];
		PGresult   *result;

		snprintf(sql, sizeof(sql), "UPDATE c_item SET data = $1 WHERE id = %d RETURNING data", id);
		result = PQexecParams(db, sql, 1, NULL, values, &size, formats, 1);
		if (expect(result, PGRES_TUPLES_OK) && (PQgetlength(result, 0, 0) != size || memcmp(PQgetvalue(result, 0, 0), data, size) != 0))
			wrong("wrong: other bytes");
		PQclear(result);
	}
	free(data);
}

static void
arrays_and_json(PGconn *db)
{
	const char *values[2] = {"{a,NULL,\"b \\\"c\\\"\"}", "{\"n\": [1, null]}"};
	PGresult   *result = PQexecParams(db, "SELECT ($1::text[])[3], $2::jsonb -> 'n' ->> 0", 2, NULL, values, NULL, NULL, 0);

	is(result, "b \"c\"");
}

static void
errors(PGconn *db)
{
	PGresult   *result;

	fails(PQexec(db, "SELEC 1"), "42601");
	fails(PQexec(db, "INSERT INTO c_item (id, name) VALUES (1, 'x')"), "23505");
	result = PQexec(db, "INSERT INTO c_item (id) VALUES (-1)");
	if (strcmp(PQresultErrorField(result, PG_DIAG_COLUMN_NAME) ? PQresultErrorField(result, PG_DIAG_COLUMN_NAME) : "", "name") != 0)
		wrong("wrong: the column is not named");
	fails(result, "23502");
	result = PQexec(db, "SELECT nosuch FROM c_item WHERE id = 1");
	if (strcmp(PQresultErrorField(result, PG_DIAG_STATEMENT_POSITION) ? PQresultErrorField(result, PG_DIAG_STATEMENT_POSITION) : "", "8") != 0)
		wrong("wrong: the position");
	fails(result, "42703");
	run(db, "BEGIN");
	fails(PQexec(db, "SELECT 1 / 0"), "22012");
	if (PQtransactionStatus(db) != PQTRANS_INERROR)
		wrong("wrong: the transaction is not failed");
	fails(PQexec(db, "SELECT 1"), "25P02");
	run(db, "ROLLBACK");
}

static int	notices;

static void
count_notice(void *unused, const PGresult *notice)
{
	(void) unused;
	(void) notice;
	notices++;
}

static void
told(PGconn *db)
{
	PQsetNoticeReceiver(db, count_notice, NULL);
	run(db, "DROP TABLE IF EXISTS c_nosuch");
	if (notices != 1)
		wrong("wrong: %d notices", notices);
}

static void
cancel(PGconn *db)
{
	PGcancel   *request = PQgetCancel(db);
	char		words[256];
	struct timeval pause = {0, 300000};

	PQsendQuery(db, "SELECT pg_sleep(20)");
	select(0, NULL, NULL, NULL, &pause);
	if (!PQcancel(request, words, sizeof(words)))
		wrong("wrong: %s", words);
	PQfreeCancel(request);
	fails(PQgetResult(db), "57014");
	PQgetResult(db);
	is(PQexec(db, "SELECT 1"), "1");
}

static void
statement_timeout(PGconn *db)
{
	run(db, "SET statement_timeout = '200ms'");
	if (outcome[0] == '\0')
		fails(PQexec(db, "SELECT pg_sleep(20)"), "57014");
}

static void
function_call(PGconn *db)
{
	/* int4pl */
	PQArgBlock	arguments[2] = {{4, 1, {.integer = 2}}, {4, 1, {.integer = 3}}};
	int			sum = 0,
				length = 0;
	PGresult   *result = PQfn(db, 177, &sum, &length, 1, arguments, 2);

	if (expect(result, PGRES_COMMAND_OK) && sum != 5)
		wrong("wrong: %d", sum);
	PQclear(result);
}

static void
large_objects(PGconn *db)
{
	run(db, "BEGIN");
	if (outcome[0] == '\0')
		run(db, "SELECT lo_create(0)");
	PQclear(PQexec(db, "ROLLBACK"));
}

static const struct
{
	const char *name;
	void		(*work) (PGconn *);
}			checks[] = {
	{"connect", connecting},
	{"schema", schema},
	{"migrations", migrations},
	{"crud", crud},
	{"transactions", transactions},
	{"prepared statements", prepared},
	{"pipeline", pipeline},
	{"single-row mode", rows_one_by_one},
	{"COPY in", copy_in},
	{"COPY out", copy_out},
	{"large values", large_values},
	{"arrays and JSON", arrays_and_json},
	{"errors", errors},
	{"notices", told},
	{"cancel", cancel},
	{"statement_timeout", statement_timeout},
	{"function calls by protocol (PQfn)", function_call},
	{"large objects", large_objects},
};

int
main(void)
{
	for (size_t at = 0; at < sizeof(checks) / sizeof(checks[0]); at++)
	{
		PGconn	   *db = PQconnectdb("");

		outcome[0] = '\0';
		if (PQstatus(db) != CONNECTION_OK)
			wrong("wrong: %s", PQerrorMessage(db));
		else
			checks[at].work(db);
		PQfinish(db);
		printf("%s\t%s\n", checks[at].name, outcome[0] ? outcome : "ok");
		fflush(stdout);
	}
	return 0;
}
