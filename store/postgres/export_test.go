package postgres

// In puts the schema into the text of a statement.
var In = in
