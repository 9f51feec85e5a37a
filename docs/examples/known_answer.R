# The known answer of the demo study, from its extract alone: Rscript known_answer.R outcomes.csv

outcomes <- read.csv(commandArgs(TRUE)[1], na.strings = "")
totals <- outcomes[outcomes$score == "total", ]
at <- function(scale, visit) totals[totals$instrument == scale & totals$visit_code == visit, c("subject", "value")]
for (scale in c("MADRS", "SHEEHAN_SDS")) {
  pairs <- merge(at(scale, "BL"), at(scale, "PRIM"), by = "subject")
  before <- pairs$value.x
  change <- pairs$value.y - pairs$value.x
  cat(sprintf("%s: n = %d, baseline %.1f (SD %.1f), ", scale, nrow(pairs), mean(before), sd(before)))
  cat(sprintf("change %.1f (SE %.1f)\n", mean(change), sd(change) / sqrt(nrow(pairs))))
}
