-- Whether the log is being filled by an import, or that was broken off. What an
-- import has added is not visible to anybody until it takes the mark away.
ALTER TABLE S.log ADD COLUMN unfinished boolean NOT NULL DEFAULT false;
