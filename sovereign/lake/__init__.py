"""The lake: where documents come from, how they are cleaned, and what is known of each (owner, licence, language)."""
