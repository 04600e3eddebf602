//! Who is let in: passwords, rules, limits, and what those try who should not be.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proxy::{Limits, ProxyConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::certificates::Authority;
use crate::harness::{Cluster, code, open_door, rules};

/// The superuser, from here, without a password; everybody else with one.
const GUARDED: &str = "host all postgres 127.0.0.1/32 trust\nhost all all all scram-sha-256\n";

async fn guarded(limits: Limits) -> Cluster {
    Cluster::configured(ProxyConfig {
        hba: rules(GUARDED),
        limits,
        ..open_door()
    })
    .await
}

/// The error of a login, which must not succeed.
async fn refused(cluster: &Cluster, options: &str) -> tokio_postgres::Error {
    let login = cluster.try_connect(cluster.address.port(), options).await;
    login.err().unwrap_or_else(|| panic!("{options} is let in"))
}

fn message(error: &tokio_postgres::Error) -> &str {
    error.as_db_error().map_or("no message", |error| error.message())
}

async fn run(cluster: &Cluster, statements: &[&str]) {
    let client = cluster.connect().await;
    for sql in statements {
        client.batch_execute(sql).await.expect(sql);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_set_by_sql_is_enough_and_counts_at_the_next_login() {
    let cluster = guarded(Limits::default()).await;
    run(&cluster, &["CREATE ROLE ada LOGIN PASSWORD 'secret'"]).await;
    let ada = "host=127.0.0.1 user=ada";
    let login = |password: &str| format!("{ada} password={password}");
    let who = cluster.psql_with(&login("secret"), "SELECT current_user").await;
    assert_eq!(who.unwrap(), "ada");
    let wrong = cluster.psql_with(&login("Secret"), "SELECT 1").await.unwrap_err();
    assert!(
        wrong.contains("password authentication failed for user \"ada\""),
        "{wrong}"
    );
    let none = cluster.psql_with(ada, "SELECT 1").await.unwrap_err();
    assert!(none.contains("no password supplied"), "{none}");
    // The rule for the superuser is another one.
    let superuser = cluster.psql_with("host=127.0.0.1 user=postgres", "SELECT current_user");
    assert_eq!(superuser.await.unwrap(), "postgres");

    run(&cluster, &["ALTER ROLE ada PASSWORD 'another'"]).await;
    assert!(cluster.psql_with(&login("secret"), "SELECT 1").await.is_err());
    assert_eq!(
        cluster.psql_with(&login("another"), "SELECT 1").await.unwrap(),
        "1"
    );
    run(&cluster, &["ALTER ROLE ada VALID UNTIL '2001-01-01'"]).await;
    let expired = refused(&cluster, "user=ada password=another").await;
    assert_eq!(code(&expired), "28P01");
    run(&cluster, &["ALTER ROLE ada VALID UNTIL 'infinity' NOLOGIN"]).await;
    let no_login = refused(&cluster, "user=ada password=another").await;
    assert_eq!(code(&no_login), "28000");
    assert_eq!(message(&no_login), "role \"ada\" is not permitted to log in");
    run(&cluster, &["DROP ROLE ada"]).await;
    assert_eq!(
        code(&refused(&cluster, "user=ada password=another").await),
        "28P01"
    );
    assert_eq!(cluster.places().failed_logins(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_role_is_not_told_to_who_has_not_proved_to_be_it() {
    let cluster = guarded(Limits::default()).await;
    let md5 = format!("CREATE ROLE old LOGIN PASSWORD 'md5{}'", "0".repeat(32));
    run(
        &cluster,
        &[
            "CREATE ROLE real LOGIN PASSWORD 'secret'",
            "CREATE ROLE empty LOGIN",
            &md5,
        ],
    )
    .await;
    let mut seen = Vec::new();
    for user in ["real", "empty", "old", "nobody"] {
        let began = Instant::now();
        let error = refused(&cluster, &format!("user={user} password=wrong")).await;
        assert_eq!(code(&error), "28P01", "{user}: {error}");
        assert_eq!(
            message(&error),
            format!("password authentication failed for user \"{user}\"")
        );
        assert!(error.as_db_error().unwrap().hint().is_none());
        // Guessing takes its time.
        assert!(began.elapsed() > Duration::from_millis(900), "{user}");
        let mut salts = Vec::new();
        for _ in 0..2 {
            let mut stranger = Stranger::start(cluster.raw().await, user).await;
            let (tag, offer) = stranger.message().await;
            assert_eq!(
                (tag, &*offer),
                ('R', &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..]),
                "{user}"
            );
            let mut client = ScramSha256::new(b"wrong", ChannelBinding::unsupported());
            let challenge = stranger.challenge("SCRAM-SHA-256", client.message()).await;
            client.update(&challenge).unwrap();
            let challenge = String::from_utf8(challenge).unwrap();
            let salt = challenge.split(',').nth(1).unwrap().to_owned();
            assert!(challenge.ends_with(",i=4096"), "{user}: {challenge}");
            salts.push(salt);
        }
        assert_eq!(salts[0], salts[1], "{user}");
        seen.push(salts[0].len());
    }
    assert_eq!(seen[1..], [seen[0]; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_bound_to_the_tls_channel_and_nobody_can_strip_that() {
    let authority = Authority::new();
    let tls = authority.server("localhost");
    let cluster = Cluster::configured(ProxyConfig {
        hba: rules(GUARDED),
        tls: Some(tls),
        ..open_door()
    })
    .await;
    run(&cluster, &["CREATE ROLE ada LOGIN PASSWORD 'secret'"]).await;
    let options = |more: &str| {
        let root = authority.root();
        format!(
            "host=localhost hostaddr=127.0.0.1 user=ada password=secret sslrootcert={} {more}",
            root.display()
        )
    };
    for more in [
        "sslmode=verify-full channel_binding=require",
        "sslmode=verify-full channel_binding=disable",
        "sslmode=disable",
    ] {
        let answer = cluster.psql_with(&options(more), "SELECT current_user").await;
        assert_eq!(answer.as_deref(), Ok("ada"), "{more}");
    }
    let wrong = "sslmode=verify-full channel_binding=require password=wrong";
    let wrong = cluster.psql_with(&options(wrong), "SELECT 1").await.unwrap_err();
    assert!(wrong.contains("password authentication failed"), "{wrong}");

    // Somebody in between hides from the client that the node can bind, or binds another channel to it.
    let other = ChannelBinding::tls_server_end_point(vec![7; 32]);
    for (mechanism, binding, refusal) in [
        (
            "SCRAM-SHA-256",
            ChannelBinding::unrequested(),
            "channel binding negotiation error",
        ),
        ("SCRAM-SHA-256-PLUS", other, "SCRAM channel binding check failed"),
    ] {
        let mut raw = cluster.raw().await;
        raw.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await.unwrap();
        assert_eq!(raw.read_u8().await.unwrap(), b'S');
        let name = "localhost".try_into().unwrap();
        let within = authority.client(&[]).connect(name, raw).await.unwrap();
        let mut stranger = Stranger::start(within, "ada").await;
        let (_, offer) = stranger.message().await;
        assert_eq!(&*offer, b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        let mut client = ScramSha256::new(b"secret", binding);
        stranger.respond_first(mechanism, client.message()).await;
        let (mut tag, mut body) = stranger.message().await;
        if tag == 'R' {
            client.update(&body[4..]).unwrap();
            stranger.send('p', client.message()).await;
            (tag, body) = stranger.message().await;
        }
        let body = String::from_utf8_lossy(&body);
        assert!(
            tag == 'E' && body.contains("C28000") && body.contains(refusal),
            "{tag} {body}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_logged_in_to_as_any_database_is() {
    let authority = Authority::new();
    let cluster = Cluster::configured(ProxyConfig {
        hba: rules(&format!(
            "hostssl howdah root 127.0.0.1/32 scram-sha-256\nhost howdah all all reject\n{GUARDED}"
        )),
        tls: Some(authority.server("localhost")),
        ..open_door()
    })
    .await;
    run(&cluster, &["CREATE ROLE root LOGIN SUPERUSER PASSWORD 'secret'"]).await;
    let login = |more: &str| {
        format!(
            "host=localhost hostaddr=127.0.0.1 dbname=howdah sslrootcert={} {more}",
            authority.root().display()
        )
    };
    let encrypted = "sslmode=verify-full channel_binding=require user=root";
    let right = login(&format!("{encrypted} password=secret"));
    let said = cluster.psql_with(&right, "SHOW CLIENTS; SHOW VERSION").await;
    let said = said.unwrap();
    assert!(said.contains("C|root|howdah|active|127.0.0.1|"), "{said}");
    assert!(said.contains("Howdah "), "{said}");
    for (more, words) in [
        (
            &*format!("{encrypted} password=wrong"),
            "password authentication failed",
        ),
        ("sslmode=disable user=root password=secret", "rejects connection"),
        // Trusted, but not here.
        ("sslmode=disable user=postgres", "database \"howdah\""),
    ] {
        let said = cluster.psql_with(&login(more), "SHOW VERSION").await.unwrap_err();
        assert!(said.contains(words), "{more}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_login_cannot_be_played_again_and_a_bare_password_is_not_taken() {
    let cluster = guarded(Limits::default()).await;
    run(&cluster, &["CREATE ROLE ada LOGIN PASSWORD 'secret'"]).await;
    let mut client = ScramSha256::new(b"secret", ChannelBinding::unsupported());
    let first = client.message().to_vec();
    let mut recorded = Stranger::start(cluster.raw().await, "ada").await;
    recorded.message().await;
    let challenge = recorded.challenge("SCRAM-SHA-256", &first).await;
    client.update(&challenge).unwrap();
    let last = client.message().to_vec();
    recorded.send('p', &last).await;
    let (tag, body) = recorded.message().await;
    assert_eq!((tag, &body[..4]), ('R', &12_u32.to_be_bytes()[..]));
    client.finish(&body[4..]).expect("the node knows the verifier");
    assert_eq!(recorded.message().await, ('R', vec![0; 4]));

    let mut again = Stranger::start(cluster.raw().await, "ada").await;
    again.message().await;
    again.challenge("SCRAM-SHA-256", &first).await;
    again.send('p', &last).await;
    let (tag, body) = again.message().await;
    let body = String::from_utf8_lossy(&body);
    assert!(
        tag == 'E' && body.contains("C08P01") && body.contains("Nonce does not match"),
        "{body}"
    );

    // The answer to AuthenticationCleartextPassword, which nobody has asked for; and anything else.
    for (tag, answer) in [
        ('p', &b"secret\0"[..]),
        ('p', &b""[..]),
        ('Q', &b"SELECT 1\0"[..]),
        ('p', &[b'x'; 2000][..]),
    ] {
        let mut bare = Stranger::start(cluster.raw().await, "ada").await;
        bare.message().await;
        bare.send(tag, answer).await;
        let (tag, body) = bare.message().await;
        let body = String::from_utf8_lossy(&body);
        assert!(tag == 'E' && body.contains("C08P01"), "{answer:?}: {tag} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_decide_by_address_channel_role_and_database() {
    let authority = Authority::new();
    let text = "host all postgres 127.0.0.1/32 trust\n\
                host all banned all reject\n\
                hostssl all ada 127.0.0.1/32 trust\n\
                host sameuser +staff 127.0.0.0/8 trust\n";
    let cluster = Cluster::configured(ProxyConfig {
        hba: rules(text),
        tls: Some(authority.server("localhost")),
        ..open_door()
    })
    .await;
    run(
        &cluster,
        &[
            "CREATE ROLE staff",
            "CREATE ROLE clerks IN ROLE staff",
            "CREATE ROLE bob LOGIN IN ROLE clerks",
            "CREATE ROLE ada LOGIN",
            "CREATE ROLE banned LOGIN",
            "CREATE DATABASE bob",
        ],
    )
    .await;
    let said = |error: String| error.split("FATAL:").nth(1).unwrap_or(&error).trim().to_owned();
    let banned = "host=127.0.0.1 user=banned sslmode=disable";
    assert_eq!(
        said(cluster.psql_with(banned, "SELECT 1").await.unwrap_err()),
        "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"banned\", database \"postgres\", no encryption"
    );
    let ada = "host=127.0.0.1 user=ada";
    assert_eq!(
        said(
            cluster
                .psql_with(&format!("{ada} sslmode=disable"), "SELECT 1")
                .await
                .unwrap_err()
        ),
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"ada\", database \"postgres\", no encryption"
    );
    let encrypted = cluster
        .psql_with(&format!("{ada} sslmode=require"), "SELECT current_user")
        .await;
    assert_eq!(encrypted.unwrap(), "ada");
    let bob = "host=127.0.0.1 user=bob sslmode=disable dbname=bob";
    assert_eq!(
        cluster.psql_with(bob, "SELECT current_user").await.unwrap(),
        "bob"
    );
    let elsewhere = refused(&cluster, "user=bob dbname=postgres").await;
    assert_eq!(code(&elsewhere), "28000");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_limited_for_roles_for_databases_and_for_all_but_superusers() {
    let cluster = Cluster::configured(ProxyConfig {
        limits: Limits {
            max_client_connections: 4,
            superuser_reserved_connections: 1,
            ..Limits::default()
        },
        ..open_door()
    })
    .await;
    run(
        &cluster,
        &[
            "CREATE ROLE ada LOGIN CONNECTION LIMIT 1",
            "CREATE ROLE bob LOGIN",
            "CREATE DATABASE small",
        ],
    )
    .await;
    for server in 0..2 {
        let direct = cluster.direct(server).await;
        direct
            .batch_execute("ALTER DATABASE small CONNECTION LIMIT 0")
            .await
            .unwrap();
    }
    let port = cluster.address.port();
    let login = |options: &'static str| cluster.try_connect(port, options);
    // The sessions of `run` are given back a moment after it let them go.
    let settled = Instant::now();
    let first = loop {
        match login("user=ada").await {
            Ok(client) => break client,
            Err(error) if settled.elapsed() < Duration::from_secs(5) => assert_eq!(code(&error), "53300"),
            Err(error) => panic!("{error}"),
        }
    };
    let error = refused(&cluster, "user=ada").await;
    assert_eq!(
        (code(&error), message(&error)),
        ("53300", "too many connections for role \"ada\"")
    );
    let error = refused(&cluster, "user=bob dbname=small").await;
    assert_eq!(
        (code(&error), message(&error)),
        ("53300", "too many connections for database \"small\"")
    );
    let second = login("user=postgres dbname=small").await.unwrap();
    let third = login("user=bob").await.unwrap();
    let error = refused(&cluster, "user=bob").await;
    assert_eq!(
        (code(&error), message(&error)),
        (
            "53300",
            "remaining connection slots are reserved for non-replication superuser connections"
        )
    );
    let fourth = login("user=postgres").await.unwrap();
    let error = refused(&cluster, "user=postgres").await;
    assert_eq!(
        (code(&error), message(&error)),
        ("53300", "sorry, too many clients already")
    );
    drop((first, second, third, fourth));
}

/// A session may get a backend that another one has given back, and is let in by what holds now all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_backend_is_no_way_around_what_postgresql_asks_of_a_new_session() {
    let cluster = Cluster::start().await;
    run(&cluster, &["CREATE ROLE ada LOGIN"]).await;
    let ada = "user=ada application_name=shares";
    let first = cluster.connect_as(ada).await;
    let shown = async |client: &tokio_postgres::Client, sql: &str| -> String {
        client.query_one(sql, &[]).await.unwrap().get(0)
    };
    let work_mem = "SELECT current_setting('work_mem')";
    assert_eq!(shown(&first, work_mem).await, "4MB");
    let everywhere = async |sql: &str| {
        for server in 0..2 {
            cluster.direct(server).await.batch_execute(sql).await.unwrap();
        }
    };
    for (shut, opened, sqlstate, words) in [
        (
            "ALTER ROLE ada NOLOGIN",
            "ALTER ROLE ada LOGIN",
            "28000",
            "role \"ada\" is not permitted to log in",
        ),
        (
            "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC",
            "GRANT CONNECT ON DATABASE postgres TO PUBLIC",
            "42501",
            "permission denied for database \"postgres\"",
        ),
    ] {
        everywhere(shut).await;
        let error = refused(&cluster, ada).await;
        assert_eq!((code(&error), message(&error)), (sqlstate, words));
        everywhere(opened).await;
        let again = cluster.connect_as(ada).await;
        assert_eq!(shown(&again, "SELECT current_user::text").await, "ada");
    }
    everywhere("ALTER ROLE ada SET work_mem = '5MB'").await;
    let later = cluster.connect_as(ada).await;
    assert_eq!(shown(&later, work_mem).await, "5MB");
    everywhere("DROP ROLE ada").await;
    let error = refused(&cluster, ada).await;
    assert_eq!(
        (code(&error), message(&error)),
        ("28000", "role \"ada\" does not exist")
    );
    everywhere("CREATE ROLE ada LOGIN").await;
    let another = cluster.connect_as(ada).await;
    assert_eq!(shown(&another, "SELECT current_user::text").await, "ada");
    drop((first, later));
}

/// Clients that send a byte at a time, or nothing, hold only the places of their own address, and only for a time.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_hold_no_place_of_others_and_none_for_long() {
    let cluster = guarded(Limits {
        authentication_timeout: Duration::from_secs(2),
        max_unauthenticated: 6,
        max_unauthenticated_per_address: 3,
        ..Limits::default()
    })
    .await;
    run(&cluster, &["CREATE ROLE ada LOGIN PASSWORD 'secret'"]).await;
    let began = Instant::now();
    let startup = startup_packet("ada");
    let slow = async |address: &str| {
        let mut stream = connect_from(address, cluster.address).await;
        for byte in &startup {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        (answer, began.elapsed())
    };
    let half = async {
        // It says who it is, and then nothing more.
        let mut stranger = Stranger::start(connect_from("127.0.0.2", cluster.address).await, "ada").await;
        stranger.message().await;
        let (tag, body) = stranger.message().await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(tag == 'E' && body.contains("C57014"), "{tag} {body}");
        assert!(began.elapsed() > Duration::from_millis(1900));
    };
    let others = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut fourth = connect_from("127.0.0.2", cluster.address).await;
        let mut answer = Vec::new();
        fourth.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("C53300"), "{answer}");
        let fast = cluster.connect_as("user=ada password=secret").await;
        fast.batch_execute("SELECT 1").await.unwrap();
        assert!(
            began.elapsed() < Duration::from_millis(1900),
            "others are slowed down"
        );
    };
    let ((one, end), (other, _), (), ()) = tokio::join!(slow("127.0.0.2"), slow("127.0.0.2"), half, others);
    assert!(
        one.is_empty() && other.is_empty(),
        "a client that never said who it is is answered"
    );
    assert!(end > Duration::from_millis(1900), "{end:?}");
    // The places are free again.
    let mut stranger = Stranger::start(connect_from("127.0.0.2", cluster.address).await, "ada").await;
    assert_eq!(stranger.message().await.0, 'R');
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guessed_cancel_key_does_nothing_and_is_counted() {
    let cluster = Cluster::start().await;
    let mut raw = Stranger::start(cluster.raw().await, "postgres").await;
    let key = loop {
        let (tag, body) = raw.message().await;
        match tag {
            'K' => break body,
            'E' => panic!("{}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    };
    raw.send('Q', b"SELECT pg_sleep(3)\0").await;
    let process_id: [u8; 4] = key[..4].try_into().unwrap();
    let secret: [u8; 4] = key[4..].try_into().unwrap();
    let node = &cluster;
    let guess = |n: u8| request_cancel(node, process_id, [secret[0], secret[1], secret[2], secret[3] ^ n]);
    let stranger = request_cancel(node, [0, 0, 0, 9], secret);
    tokio::join!(guess(1), guess(2), guess(128), stranger);
    assert_eq!(cluster.places().refused_cancels(), 4);
    let statement_ended = async {
        loop {
            let (tag, body) = raw.message().await;
            if tag == 'C' || tag == 'E' {
                return (tag, String::from_utf8_lossy(&body).into_owned());
            }
        }
    };
    let (tag, body) = statement_ended.await;
    assert_eq!(tag, 'C', "{body}");
    raw.send('Q', b"SELECT pg_sleep(30)\0").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    request_cancel(node, process_id, secret).await;
    loop {
        let (tag, body) = raw.message().await;
        assert_ne!(tag, 'C', "the right key does nothing");
        if tag == 'E' {
            assert!(String::from_utf8_lossy(&body).contains("C57014"));
            break;
        }
    }
    assert_eq!(cluster.places().refused_cancels(), 4);
}

/// As a node does at SIGHUP.
#[tokio::test(flavor = "multi_thread")]
async fn rules_certificate_and_limits_change_while_clients_are_served() {
    let (old, new) = (Authority::new(), Authority::new());
    let config = |authority: &Authority, text: &str| ProxyConfig {
        hba: rules(text),
        tls: Some(authority.server("localhost")),
        ..open_door()
    };
    let cluster = Cluster::configured(config(&old, GUARDED)).await;
    let options = |authority: &Authority| {
        let root = authority.root();
        format!(
            "host=localhost hostaddr=127.0.0.1 user=postgres sslmode=verify-full sslrootcert={}",
            root.display()
        )
    };
    assert_eq!(cluster.psql_with(&options(&old), "SELECT 1").await.unwrap(), "1");
    let client = cluster.connect().await;
    cluster.reload(config(&new, "hostssl all postgres 127.0.0.1/32 trust\n"));
    assert_eq!(cluster.psql_with(&options(&new), "SELECT 1").await.unwrap(), "1");
    assert!(cluster.psql_with(&options(&old), "SELECT 1").await.is_err());
    assert_eq!(code(&refused(&cluster, "user=postgres").await), "28000");
    // Who is there stays.
    client.batch_execute("SELECT 1").await.unwrap();
    let limits = Limits {
        max_client_connections: 1,
        ..Limits::default()
    };
    cluster.reload(ProxyConfig {
        limits,
        ..open_door()
    });
    assert_eq!(code(&refused(&cluster, "user=postgres").await), "53300");
    client.batch_execute("SELECT 1").await.unwrap();
}

/// Sends a CancelRequest and waits until the node has closed the connection, as it does without an answer.
async fn request_cancel(cluster: &Cluster, process_id: [u8; 4], secret: [u8; 4]) {
    let parts = [
        16_u32.to_be_bytes(),
        80_877_102_u32.to_be_bytes(),
        process_id,
        secret,
    ];
    let mut stream = cluster.raw().await;
    stream
        .write_all(&parts.concat())
        .await
        .expect("the connection is open");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
}

async fn connect_from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let address: IpAddr = address.parse().expect("an address");
    socket.bind(SocketAddr::new(address, 0)).expect("a connection");
    socket.connect(to).await.expect("a connection")
}

fn startup_packet(user: &str) -> Vec<u8> {
    let body = format!("\0\u{3}\0\0user\0{user}\0database\0postgres\0\0");
    let length = u32::try_from(body.len() + 4).expect("it fits");
    [&length.to_be_bytes(), body.as_bytes()].concat()
}

/// A client that speaks the protocol by hand, message by message.
struct Stranger<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> Stranger<S> {
    async fn start(mut stream: S, user: &str) -> Stranger<S> {
        stream
            .write_all(&startup_packet(user))
            .await
            .expect("the connection is open");
        Stranger(stream)
    }

    async fn send(&mut self, tag: char, body: &[u8]) {
        let length = u32::try_from(body.len() + 4).expect("it fits");
        let tag = u8::try_from(tag).expect("it fits");
        let message = [&[tag][..], &length.to_be_bytes(), body].concat();
        // The node may have closed the connection already.
        let _ = self.0.write_all(&message).await;
        let _ = self.0.flush().await;
    }

    /// SASLInitialResponse.
    async fn respond_first(&mut self, mechanism: &str, message: &[u8]) {
        let length = u32::try_from(message.len()).expect("it fits");
        let body = [mechanism.as_bytes(), b"\0", &length.to_be_bytes(), message].concat();
        self.send('p', &body).await;
    }

    /// As that; gives the node's challenge.
    async fn challenge(&mut self, mechanism: &str, message: &[u8]) -> Vec<u8> {
        self.respond_first(mechanism, message).await;
        let (tag, body) = self.message().await;
        assert_eq!(tag, 'R', "{}", String::from_utf8_lossy(&body));
        assert_eq!(body[..4], 11_u32.to_be_bytes());
        body[4..].to_vec()
    }

    /// The node's next message.
    async fn message(&mut self) -> (char, Vec<u8>) {
        let read = async {
            let tag = self.0.read_u8().await?;
            let length = self.0.read_u32().await?;
            let mut body = vec![0; usize::try_from(length).expect("it fits") - 4];
            self.0.read_exact(&mut body).await?;
            Ok::<_, std::io::Error>((char::from(tag), body))
        };
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        read.expect("an answer in time").expect("readable")
    }
}
