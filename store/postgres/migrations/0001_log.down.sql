DROP SEQUENCE S.clock;
DROP TABLE S.commits, S.states, S.snapshots, S.events, S.log;
