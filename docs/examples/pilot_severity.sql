-- Participants of the CDISC pilot by their worst adverse event, in the folder of adverse_events.csv:
-- duckdb -csv -noheader -separator ': ' < pilot_severity.sql

WITH ranks(rank, severity) AS (VALUES (1, 'mild'), (2, 'moderate'), (3, 'severe')),
worst AS (SELECT subject, max(rank) AS rank FROM read_csv('adverse_events.csv') JOIN ranks USING (severity) GROUP BY subject)
SELECT severity, count(subject) FROM ranks LEFT JOIN worst USING (rank) GROUP BY rank, severity ORDER BY rank;
