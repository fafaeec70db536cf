"""Reference candidates and every performance figure quoted elsewhere, each made by one command."""
