-- What the log is: one row, written once, and whether events have been deleted.
CREATE TABLE S.log (
	one    boolean PRIMARY KEY DEFAULT true CHECK (one),
	info   bytea NOT NULL,
	pruned bigint NOT NULL DEFAULT 0
);

-- The position is an unsigned number in 64 bits: within a partition it has the
-- same order as a signed one. Kind, id, version, type and tags repeat what is in
-- the record, to find it by.
CREATE TABLE S.events (
	position bigint NOT NULL,
	version  bigint NOT NULL,
	kind     text COLLATE "C" NOT NULL,
	id       text COLLATE "C" NOT NULL,
	type     text COLLATE "C" NOT NULL,
	tags     text[] COLLATE "C",
	record   bytea NOT NULL,
	CONSTRAINT events_position PRIMARY KEY (position),
	CONSTRAINT events_version UNIQUE (kind, id, version)
);

-- Records are compressed by nobody: what is encrypted or small does not gain,
-- and what is large costs the server's time under the lock.
ALTER TABLE S.events ALTER COLUMN record SET STORAGE EXTERNAL;

CREATE TABLE S.snapshots (
	kind    text COLLATE "C" NOT NULL,
	id      text COLLATE "C" NOT NULL,
	version bigint NOT NULL,
	record  bytea NOT NULL,
	PRIMARY KEY (kind, id, version)
);

CREATE TABLE S.states (
	kind    text COLLATE "C" NOT NULL,
	id      text COLLATE "C" NOT NULL,
	version bigint NOT NULL,
	record  bytea NOT NULL,
	PRIMARY KEY (kind, id)
) WITH (fillfactor = 70);

-- One row for each transaction of a committer, deleted some time later: from it a
-- committer that has lost its connection learns whether it has committed.
CREATE TABLE S.commits (
	writer uuid NOT NULL,
	serial bigint NOT NULL,
	at     timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (writer, serial)
);

-- The time of the last commit in nanoseconds. It is a sequence because that can
-- be set a thousand times a second without leaving dead rows.
CREATE SEQUENCE S.clock MINVALUE -9223372036854775808 START 0;
