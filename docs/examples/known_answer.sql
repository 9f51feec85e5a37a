-- The known answer of the demo study, from its extract alone, in the folder of outcomes.csv: duckdb < known_answer.sql

SELECT instrument, count(*) AS n,
  round(avg(b.value), 1) AS baseline, round(stddev_samp(b.value), 1) AS sd,
  round(avg(p.value - b.value), 1) AS change, round(stddev_samp(p.value - b.value) / sqrt(count(*)), 1) AS se
FROM read_csv('outcomes.csv') AS b
JOIN read_csv('outcomes.csv') AS p USING (subject, instrument, score)
WHERE b.visit_code = 'BL' AND p.visit_code = 'PRIM' AND score = 'total' AND instrument IN ('MADRS', 'SHEEHAN_SDS')
GROUP BY instrument ORDER BY instrument;
