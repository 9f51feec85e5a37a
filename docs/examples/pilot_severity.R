# Participants of the CDISC pilot by their worst adverse event: Rscript pilot_severity.R adverse_events.csv

events <- read.csv(commandArgs(TRUE)[1])
ranks <- c("mild", "moderate", "severe")
worst <- tapply(match(events$severity, ranks), events$subject, max)
cat(sprintf("%s: %d\n", ranks, tabulate(worst, 3)), sep = "")
