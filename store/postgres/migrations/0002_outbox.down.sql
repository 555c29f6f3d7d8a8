DROP TABLE S.bookmarks, S.claims, S.receipts, S.messages;
DROP SEQUENCE S.message_sequence;
