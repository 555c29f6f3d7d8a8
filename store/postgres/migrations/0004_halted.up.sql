-- min_reader: 3, min_writer: 3
-- Whether a parked message holds up those behind it. A program that does not know the
-- column leaves it as it is when it takes the message up, so it counts only while the
-- record says so too.
ALTER TABLE S.messages ADD COLUMN halted boolean NOT NULL DEFAULT false;
CREATE INDEX messages_halted ON S.messages (due, sequence) WHERE halted;
