-- Due is in nanoseconds, and the least number for a message that is due at once.
CREATE TABLE S.messages (
	sequence bigint NOT NULL,
	due      bigint NOT NULL,
	parked   boolean NOT NULL,
	kind     text COLLATE "C" NOT NULL,
	id       text COLLATE "C" NOT NULL,
	timer    text COLLATE "C",
	record   bytea NOT NULL,
	PRIMARY KEY (sequence)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

CREATE INDEX messages_due ON S.messages (due, sequence) WHERE NOT parked;
CREATE INDEX messages_parked ON S.messages (sequence) WHERE parked;
CREATE UNIQUE INDEX messages_timer ON S.messages (kind, id, timer) WHERE timer IS NOT NULL;

CREATE SEQUENCE S.message_sequence;

CREATE TABLE S.receipts (
	kind   text COLLATE "C" NOT NULL,
	id     text COLLATE "C" NOT NULL,
	name   text COLLATE "C" NOT NULL,
	record bytea NOT NULL,
	PRIMARY KEY (kind, id, name)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

CREATE TABLE S.claims (
	space  text COLLATE "C" NOT NULL,
	value  text COLLATE "C" NOT NULL,
	record bytea NOT NULL,
	PRIMARY KEY (space, value)
);

CREATE TABLE S.bookmarks (
	name      text COLLATE "C" NOT NULL,
	partition integer NOT NULL,
	record    bytea NOT NULL,
	PRIMARY KEY (name, partition)
) WITH (fillfactor = 50);
