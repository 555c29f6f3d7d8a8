ALTER TABLE S.log DROP COLUMN unfinished;
