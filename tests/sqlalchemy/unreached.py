"""What is known of servers and cannot be shown on these: by rule or by error code, with the reason."""

from __future__ import annotations

NO_MYSQL = (
    "MySQL itself is NOT run: none of the package sources that this project may use has its server."
    " MariaDB stands in for what both do alike; what only MySQL does rests on research and vectors."
)
MYSQL, OLD = (
    "only MySQL has it",
    "this server no longer gives it, or no statement was found that does",
)
CLUSTER = "needs a cluster, which is in no package here, or is not worth one"
NEWER = "needs a newer server than Debian 12 has"
UNREACHED = {
    "mysql 3572, 3058, 3024, 3819, 4031, 3169, 1836": MYSQL,
    "mysql 3100, 3101; 1213 at COMMIT (Galera)": CLUSTER,
    "mariadb 1020 by default; 1030 (here 1180)": NEWER + " (11.6, 11.8)",
    "mariadb 1022, 1169, 1586, 1216, 1217": OLD,
    "mariadb 1206, 1412": "the research has not seen it either",
    "postgresql 25P04": NEWER + " (17)",
    "postgresql 40001 and 25006 on a standby": "a role that may only read stands in for the second",
    "postgresql 57P02, 57P03, 57P04, 57P05, 53100, 53200, 53400, 55006": "the research has not seen it",
    "sqlite 261, 773, 6, 7, 15, 17": "the research has read it in the source, not seen it",
}
# Rules that are shown by a test with more to tell than a line of a table.
ELSEWHERE = {
    "postgresql.too_many_connections": "test_a_server_without_a_free_connection",
    "postgresql.lost": "test_a_lost_connection",
    "postgresql.lost.opening": "test_a_connection_lost_while_it_opens",
    "postgresql.lost.commit": "test_a_commit_that_was_terminated_while_it_waited_for_a_standby",
    "postgresql.read_only": "test_a_session_that_may_only_read",
    "mariadb.too_many_connections": "test_a_server_may_have_no_connection_free",
    "mariadb.lost.opening": "test_a_connection_lost_while_it_opens",
    "mariadb.lost.commit": "test_a_lost_connection",
    "mariadb.lock_timeout.rolled_back": "test_a_server_may_roll_back_on_a_lock_timeout",
    "mariadb.read_only.declared": "test_a_transaction_declared_read_only_goes_on_after_a_refused_write",
    "mariadb.bulk_insert": "test_without_checks_a_duplicate_undoes_what_the_server_says_is_open",
}
