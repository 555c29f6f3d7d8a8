ALTER TABLE S.messages DROP COLUMN halted;
