"""A participant's way into, through and out of the study: enrolment, consent, screening, status."""
