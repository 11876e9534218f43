"""Sources and sinks for what lies outside."""
