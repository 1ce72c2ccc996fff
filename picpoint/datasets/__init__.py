"""The field's labelled data sets, read as users have them on disk."""
